//! What can be wrong with a setting of this crate, or with a question to the allocator.

/// An error of this crate; a refused reservation has its own, [`Full`](crate::Full).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The levels do not rise, or leave no room for the hysteresis.
    #[error(
        "pressure levels moderate {moderate}, high {high}, critical {critical} per mille: each must be above the one \
         before by more than the hysteresis of {hysteresis}, the last at most 1000"
    )]
    Levels {
        /// Where `moderate` begins, per mille.
        moderate: u16,
        /// Where `high` begins, per mille.
        high: u16,
        /// Where `critical` begins, per mille.
        critical: u16,
        /// How far below an edge a level is left, per mille.
        hysteresis: u16,
    },
    /// A memory budget of nothing.
    #[error("memory budget of 0 bytes")]
    BudgetZero,
    /// The memory budget is more than there is.
    #[error("memory budget of {budget_bytes} bytes is above the {machine_bytes} bytes of {limited_by}")]
    BudgetAboveMachine {
        /// The budget, bytes.
        budget_bytes: u64,
        /// What the machine or the cgroup gives, bytes.
        machine_bytes: u64,
        /// Which of the two.
        limited_by: &'static str,
    },
    /// A question to jemalloc in a build without it.
    #[error("the allocator answers no questions: built without jemalloc")]
    AllocatorAbsent,
    /// jemalloc refused.
    #[error("the allocator refused {name} with code {code}")]
    Allocator {
        /// What was asked.
        name: String,
        /// The error number of the system that it answered.
        code: i32,
    },
    /// The process was not started so that its heap can be profiled.
    #[error("the heap cannot be profiled: the process started without prof:true")]
    HeapProfileOff,
    /// A dump of the heap could not be made or read.
    #[error("no heap profile: {0}")]
    HeapDump(String),
}

// === impl Error ===

impl Error {
    /// Whether the same call may succeed later without a change.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Levels { .. } | Self::BudgetZero | Self::BudgetAboveMachine { .. } => false,
            Self::AllocatorAbsent | Self::HeapProfileOff => false,
            Self::Allocator { .. } | Self::HeapDump(_) => true,
        }
    }
}
