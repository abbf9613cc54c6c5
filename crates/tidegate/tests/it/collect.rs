//! Acknowledgements of clients that are collected over HTTP, and bytes in both directions.

use serde_json::{Value, json};
use tidegate::gateway::ANSWERS_MAX;

use crate::{
    client::{Frame, get},
    schema::mismatch,
    sessions::{client, house, post},
};

/// Asks everybody in `chat`; whoever is in `answering` sends this packet text after the id.
async fn check_collected(ack: Value, answering: &[(usize, &str)], expected: Value) {
    let server = house().await;
    let at = server.local_addr();
    let mut clients = [
        client(&server, r#"["chat"]"#).await,
        client(&server, r#"["chat"]"#).await,
    ];
    let body = json!({"room": "chat", "event": "q", "ack": ack}).to_string();
    let asking = tokio::spawn(async move { post(at, "/api/publish", &body).await });
    let mut asked = Vec::new();
    for client in &mut clients {
        let question = client.read().await;
        asked.push(
            question[2..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>(),
        );
    }
    for (n, text) in answering {
        clients[*n].send(&format!("43{}{text}", asked[*n])).await;
    }
    let answer = asking.await.unwrap();
    let document = get(at, "/api/openapi.json").await.json();
    let schema = &document["components"]["schemas"]["Collected"];
    let mut json = answer.json();
    assert_eq!(mismatch(&document, schema, &json, "collected"), None, "{json}");
    let name = |id: &Value| clients.iter().position(|client| *id == *client.id).unwrap();
    for answer in json["answers"].as_array_mut().unwrap() {
        answer["session"] = json!(name(&answer["session"]));
    }
    let in_order = |answers: &mut Vec<Value>| answers.sort_by_key(|answer| answer["session"].as_u64());
    in_order(json["answers"].as_array_mut().unwrap());
    for id in json["missing"].as_array_mut().unwrap() {
        *id = json!(name(id));
    }
    assert_eq!(json, expected, "{ack} {answering:?}");
    drop(clients);
    server.shutdown().await;
}

fn collected(answers: &[&Value], missing: &[usize], timed_out: bool) -> Value {
    json!({
        "ok": true, "expected": 2, "answers": answers, "missing": missing, "dropped": 0,
        "timed_out": timed_out, "duplicate": false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_collected_and_who_is_missing_is_named() {
    let all = json!({"timeout": "1m"});
    let short = json!({"timeout": "300ms", "max": 5});
    let first = json!({"timeout": "1m", "max": 1});
    let zero = json!({"session": 0, "args": ["yes", 1]});
    let one = json!({"session": 1, "args": []});
    let yes = (0, r#"["yes",1]"#);
    check_collected(all, &[yes, (1, "[]")], collected(&[&zero, &one], &[], false)).await;
    check_collected(short, &[yes], collected(&[&zero], &[1], true)).await;
    check_collected(first, &[(1, "[]")], collected(&[&one], &[0], false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_odd_json_is_shown_as_it_is_beside_the_others() {
    let server = house().await;
    let at = server.local_addr();
    let deep = format!("[{}{}]", "[".repeat(300), "]".repeat(300));
    let texts = ["[1]", r#"["\ud83d"]"#, "[1e999]", &deep];
    let mut clients = Vec::new();
    for _ in texts {
        clients.push(client(&server, r#"["chat"]"#).await);
    }
    let body = r#"{"room":"chat","event":"q","ack":{"timeout":"1m"}}"#;
    let asking = tokio::spawn(async move { post(at, "/api/publish", body).await });
    for (client, text) in clients.iter_mut().zip(texts) {
        let question = client.read().await;
        let id: String = question[2..].chars().take_while(char::is_ascii_digit).collect();
        client.send(&format!("43{id}{text}")).await;
    }
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (client, text) in clients.iter().zip(texts) {
        let shown = format!(r#"{{"session":"{}","args":{text}}}"#, client.id);
        assert!(answer.body.contains(&shown), "{shown} in {}", answer.body);
    }
    assert!(answer.body.contains(r#""dropped":0"#), "{}", answer.body);
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_an_answer_are_shown_as_base64() {
    let server = house().await;
    let at = server.local_addr();
    let mut client = client(&server, r#"["chat"]"#).await;
    let body = r#"{"room":"chat","event":"q","ack":{"timeout":"1m"},"id":"once"}"#;
    let asking = tokio::spawn(async move { post(at, "/api/publish", body).await.json() });
    let question = client.read().await;
    let id: String = question[2..].chars().take_while(char::is_ascii_digit).collect();
    client
        .send(&format!(
            r#"461-{id}[{{"file":{{"_placeholder":true,"num":0}}}}]"#
        ))
        .await;
    client.send_binary(b"\x00\xff").await;
    let answer = asking.await.unwrap();
    assert_eq!(
        answer["answers"][0]["args"],
        json!([{"file": {"$binary": "AP8="}}])
    );
    // The same id again asks nobody.
    let again = post(at, "/api/publish", body).await.json();
    assert_eq!(
        (&again["duplicate"], &again["expected"]),
        (&json!(true), &json!(0))
    );
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_published_as_base64() {
    let server = house().await;
    let at = server.local_addr();
    let mut client = client(&server, r#"["chat"]"#).await;
    let publish = async |message: &str| {
        let body = format!(r#"{{"room":"chat","event":"f",{message}}}"#);
        post(at, "/api/publish", &body).await
    };
    for message in [r#""data":{"$binary":"AP8="}"#, r#""args":[{"$binary":"AP8="}]"#] {
        assert_eq!(publish(message).await.status, 200, "{message}");
        let event = client.read().await;
        assert!(
            event.starts_with(r#"451-["f",{"_placeholder":true,"num":0}"#),
            "{event}"
        );
        assert_eq!(client.frame().await, Frame::Binary(b"\x00\xff".to_vec()));
    }
    // What is no base64 is no bytes, but an object that somebody calls so.
    assert_eq!(publish(r#""data":{"$binary":"%"}"#).await.status, 200);
    assert!(client.read().await.starts_with(r#"42["f",{"$binary":"%"}"#));
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_asking_for_answers_is_said() {
    let server = house().await;
    let at = server.local_addr();
    let check = async |ack: &str, says: &str| {
        let body = format!(r#"{{"room":"chat","event":"q",{ack}}}"#);
        let answer = post(at, "/api/publish", &body).await;
        assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{ack}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{ack}: {message}");
    };
    check(r#""ack":{}"#, "missing field `timeout`").await;
    check(r#""ack":{"timeout":5}"#, "expected a string").await;
    check(r#""ack":{"timeout":"5"}"#, "number with a unit").await;
    check(r#""ack":{"timeout":"0s"}"#, "ack.timeout is 0 ms").await;
    check(r#""ack":{"timeout":"61s"}"#, "ack.timeout is 61000 ms").await;
    check(r#""ack":{"timeout":"1s","max":0}"#, "ack.max is 0").await;
    let max = ANSWERS_MAX + 1;
    check(&format!(r#""ack":{{"timeout":"1s","max":{max}}}"#), "ack.max is").await;
    check(r#""ack":{"timeout":"1s","min":1}"#, "unknown field `min`").await;
    check(r#""ack":{"timeout":"1s"},"ack_timeout_ms":5"#, "not both").await;
    let silent = client(&server, r#"["chat"]"#).await;
    let ask = |timeout: &str| format!(r#"{{"room":"chat","event":"q","ack":{{"timeout":"{timeout}"}}}}"#);
    let list = format!(
        r#"{{"messages":[{},{},{}]}}"#,
        ask("20ms"),
        ask("60s"),
        ask("1ms")
    );
    let results = post(at, "/api/publish", &list).await.json()["results"].clone();
    assert_eq!(
        (&results[0]["expected"], &results[0]["missing"]),
        (&json!(1), &json!([silent.id]))
    );
    let left = results[1]["error"]["message"].as_str().unwrap();
    assert!(left.contains("for all messages of a request are left"), "{left}");
    assert_eq!(results[2]["timed_out"], true);
    drop(silent);
    server.shutdown().await;
}
