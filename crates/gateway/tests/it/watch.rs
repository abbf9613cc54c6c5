//! Rooms are told to who follows them: those that are there, those that come, those that go.

use tidegate_gateway::{Args, Publication, RoomChange};

use crate::{
    client::Client,
    house::{House, open_house},
};

fn shown(mut changes: Vec<RoomChange>) -> Vec<String> {
    changes.sort_by(|a, b| a.room.cmp(&b.room));
    let text = |change: &RoomChange| {
        let sign = if change.exists { '+' } else { '-' };
        format!("{sign}{}{}", change.namespace, change.room)
    };
    changes.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_are_told_as_they_come_and_go() {
    let house = House::start(open_house()).await;
    let client = Client::connect(house.at).await;
    let io = || house.gateway.to(client.sid.clone());
    io().join(&["before"]).unwrap();
    let mut watch = house.gateway.watch_rooms();
    assert_eq!(shown(watch.restart()), ["+/before"]);
    io().join(&["a", "b"]).unwrap();
    assert_eq!(shown(watch.changed().await), ["+/a", "+/b"]);
    io().leave(&["a"]).unwrap();
    assert_eq!(shown(watch.changed().await), ["-/a"]);
    // Nothing is told of rooms that nobody is in.
    let said = Publication::to_room("nobody", "m", Args::new());
    house.gateway.publisher().publish(said).unwrap();
    io().leave(&["b", "before"]).unwrap();
    assert_eq!(shown(watch.changed().await), ["-/b", "-/before"]);
    assert!(watch.restart().is_empty());
    drop(client);
    house.end().await;
}
