//! Checksummed, bounded segment log.
