//! Rooms as they come and go, for whoever listens for them elsewhere.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::shared::Shared;

/// A room that came to exist here, or exists no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomChange {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub room: Arc<str>,
    /// Whether it exists now.
    pub exists: bool,
}

/// Follows the rooms of all namespaces: [`crate::Gateway::watch_rooms`]. Dropped, nothing is noted any more.
pub struct RoomWatch {
    shared: Arc<Shared>,
    bell: Arc<Notify>,
}

/// What a namespace has noted for a watch. A room that came and went in between is not in it, so it holds no more than the
/// rooms that exist and those that the watch was told of.
pub(crate) struct Noted {
    changed: FxHashMap<Arc<str>, bool>,
    bell: Arc<Notify>,
}

impl RoomWatch {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let bell = Arc::new(Notify::new());
        let watch = Self { shared, bell };
        watch.begin();
        watch
    }

    /// Forgets what was noted, and says which rooms exist.
    pub fn restart(&mut self) -> Vec<RoomChange> {
        self.begin()
    }

    /// Waits for rooms to come or go, and says which. What changes back before it is asked is left out.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub async fn changed(&mut self) -> Vec<RoomChange> {
        loop {
            let changes = self.take();
            if !changes.is_empty() {
                return changes;
            }
            self.bell.notified().await;
        }
    }

    fn begin(&self) -> Vec<RoomChange> {
        let mut all = Vec::new();
        for namespace in &self.shared.namespaces {
            let names = namespace.watch_rooms(Some(Noted {
                changed: FxHashMap::default(),
                bell: self.bell.clone(),
            }));
            all.extend(names.into_iter().map(|room| RoomChange {
                namespace: namespace.name.clone(),
                room,
                exists: true,
            }));
        }
        all
    }

    fn take(&self) -> Vec<RoomChange> {
        let mut all = Vec::new();
        for namespace in &self.shared.namespaces {
            let changed = namespace.changed_rooms();
            all.extend(changed.into_iter().map(|(room, exists)| RoomChange {
                namespace: namespace.name.clone(),
                room,
                exists,
            }));
        }
        all
    }
}

impl Drop for RoomWatch {
    fn drop(&mut self) {
        for namespace in &self.shared.namespaces {
            drop(namespace.watch_rooms(None));
        }
    }
}

impl Noted {
    /// A room came or went.
    pub(crate) fn note(&mut self, room: &Arc<str>, exists: bool) {
        // What is noted is the opposite of what the watch knows, so the next change undoes it.
        if self.changed.remove(room).is_none() {
            self.changed.insert(room.clone(), exists);
        }
        self.bell.notify_one();
    }

    pub(crate) fn take(&mut self) -> FxHashMap<Arc<str>, bool> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_back_is_not_told() {
        let mut noted = Noted {
            changed: FxHashMap::default(),
            bell: Arc::default(),
        };
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        noted.note(&a, true);
        noted.note(&b, true);
        noted.note(&a, false);
        assert_eq!(noted.take().into_iter().collect::<Vec<_>>(), [(b.clone(), true)]);
        noted.note(&b, false);
        noted.note(&b, true);
        assert!(noted.take().is_empty());
    }
}
