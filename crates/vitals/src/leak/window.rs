//! A window of points, each the sample with the least unexplained memory of its bucket.

use super::{Config, Fit, fit};
use crate::clock::Instant;

/// One sample, reduced to what the regression needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) at: Instant,
    pub(super) value: f64,
    pub(super) load: f64,
}

/// The points so far: at most `buckets`, since a full window is evaluated and emptied.
#[derive(Debug, Default)]
pub(super) struct Window {
    points: Vec<Point>,
    /// The bucket being filled: when it began, and its least sample yet.
    open: Option<(Instant, Point)>,
}

// === impl Window ===

impl Window {
    /// Adds a sample; the fit of the window if this completes it.
    pub(super) fn add(&mut self, point: Point, config: &Config) -> Option<Fit> {
        let Some((began, least)) = self.open.as_mut() else {
            self.open = Some((point.at, point));
            return None;
        };
        if point.at - *began < config.bucket {
            if point.value < least.value {
                *least = point;
            }
            return None;
        }
        let closed = *least;
        self.open = Some((point.at, point));
        self.points.push(closed);
        if self.points.len() < config.buckets {
            return None;
        }
        let fit = fit::fit(&self.points);
        self.points.clear();
        fit
    }
}
