//! Socket.IO 5: payload rules of each kind, limits, arguments, placeholders, encoders.

use tidegate_wire::socketio::{
    Limits, check_placeholders, decode, event, last_string, put_ack, put_connect, put_connect_error,
    put_disconnect, put_event, put_event_name_json,
};

#[track_caller]
fn refused(text: &str, expected: &str) {
    let limits = Limits {
        attachments_max: 2,
        event_name_bytes_max: 10,
        namespace_bytes_max: 10,
    };
    let error = decode(text, &limits).expect_err(text);
    assert_eq!(error.to_string(), expected, "{text}");
    assert!(!error.is_retryable());
}

#[track_caller]
fn accepted(text: &str) {
    decode(text, &Limits::default()).expect(text);
}

#[test]
fn heads_that_are_none_are_refused() {
    refused("", "empty packet");
    refused("7", "unknown packet kind '7'");
    refused("abc", "unknown packet kind 'a'");
    refused("é", "unknown packet kind 'é'");
    for text in [
        "5",
        "5-[\"a\"]",
        "5x-[\"a\"]",
        "51[\"a\"]",
        "51.0-[\"a\"]",
        "5+1-[\"a\"]",
        "5 1-[\"a\"]",
    ] {
        refused(text, "binary event packet without a number of attachments");
    }
    refused("6[\"a\"]", "binary ack packet without a number of attachments");
    refused("53-[\"a\"]", "packet with more than 2 attachments");
    refused(
        "599999999999999999999999-[\"a\"]",
        "packet with more than 2 attachments",
    );
    refused("0/0123456789", "namespace of 11 bytes, at most 10 allowed");
    refused("29007199254740992[\"a\"]", "id of 16 digits exceeds 2^53 - 1");
    refused(
        "299999999999999999999999[\"a\"]",
        "id of 23 digits exceeds 2^53 - 1",
    );
    refused("3[\"a\"]", "ack packet without an id");
    refused("60-[\"a\"]", "binary ack packet without an id");
}

#[test]
fn payloads_of_another_shape_are_refused() {
    for text in ["0[]", "0\"x\"", "0 ", "0null", "0/a,1[]"] {
        refused(text, "payload of a connect packet, expected an object or nothing");
    }
    for text in ["1{}", "1 ", "1/a,[]"] {
        refused(text, "payload of a disconnect packet, expected nothing");
    }
    for text in [
        "2",
        "2{}",
        "2\"a\"",
        "21",
        "2null",
        "2/a,",
        "2abc[\"a\"]",
        "2-1[\"a\"]",
    ] {
        refused(
            text,
            "payload of a event packet, expected an array that starts with the event's name",
        );
    }
    for text in ["31", "31{}", "31\"a\""] {
        refused(text, "payload of a ack packet, expected an array");
    }
    for text in ["4", "4[]", "4null", "4true"] {
        refused(
            text,
            "payload of a connect_error packet, expected a string or an object",
        );
    }
    for text in ["2[]", "2[null]", "2[true]", "2[{}]", "2[[\"a\"]]"] {
        refused(text, "event without a name");
    }
}

#[test]
fn payloads_that_are_not_json_are_refused() {
    for text in [
        "0{",
        "0{\"a\"}",
        "0{}x",
        "2[\"a\"",
        "2[\"a\",]",
        "2[\"a\"]]",
        "2[\"a\" 1]",
        "2[\"a\",01]",
        "2[\"a\",\"\n\"]",
        "2[\"\\ud800\"]",
        "31[1,",
        "4{\"a\":}",
        "4\"x",
    ] {
        let error = decode(text, &Limits::default()).expect_err(text);
        assert!(error.to_string().ends_with("is not JSON"), "{text}: {error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn reserved_event_names_are_refused_however_they_are_written() {
    for name in [
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
    ] {
        for text in [format!("2[\"{name}\"]"), format!("50-[\"{name}\",1]")] {
            let error = decode(&text, &Limits::default()).unwrap_err();
            assert_eq!(error.to_string(), format!("event name {name:?} is reserved"));
        }
    }
    refused(r#"2["\u0063onnect"]"#, "event name \"connect\" is reserved");
    accepted("2[\"connected\"]");
    accepted("2[\"Connect\"]");
    accepted("31[\"connect\"]");
}

#[test]
fn event_names_are_bounded_unescaped() {
    accepted("2[\"0123456789\"]");
    refused("2[\"0123456789a\"]", "event name of 11 bytes, at most 10 allowed");
    let escaped = r#"2["\u0061\u0062"]"#;
    let limits = Limits {
        event_name_bytes_max: 2,
        ..Limits::default()
    };
    assert!(decode(escaped, &limits).is_ok());
}

#[test]
fn unusual_but_legal_packets_are_accepted() {
    accepted("2[1,\"number as a name\"]");
    accepted("2[\"\"]");
    accepted("2 [ \"spaced\" , 1 ] ");
    accepted("50-[\"no attachments after all\"]");
    accepted("29007199254740991[\"largest id\"]");
    accepted("4\"plain string\"");
    accepted(&format!(
        "2[\"deep\",{}{}]",
        "[".repeat(10_000),
        "]".repeat(10_000)
    ));
}

#[test]
fn namespaces_end_at_a_comma_and_lose_their_query() {
    fn check(text: &str, namespace: &str, data: &str) {
        let packet = decode(text, &Limits::default()).unwrap();
        assert_eq!((packet.namespace, packet.data), (namespace, data), "{text}");
    }
    check("0", "/", "");
    check("0/", "/", "");
    check("0/,{}", "/", "{}");
    check("0/admin", "/admin", "");
    check("0/admin?token=a/b&c=?,{}", "/admin", "{}");
    check("0/?token=1,{}", "/", "{}");
    check("2/a-1,[\"x\"]", "/a-1", "[\"x\"]");
    check("2[\"/not,a namespace\"]", "/", "[\"/not,a namespace\"]");
}

#[test]
fn events_fall_into_name_and_raw_arguments() {
    fn check(data: &str, name: &str, args: &[&str]) {
        let view = event(data).unwrap();
        assert_eq!(view.name, name);
        assert_eq!(view.args.iter().map(|arg| arg.get()).collect::<Vec<_>>(), args);
    }
    check(r#"["price"]"#, "price", &[]);
    check(
        r#"["price", {"a": [1, 2]} ,null,"x,]"]"#,
        "price",
        &[r#"{"a": [1, 2]}"#, "null", r#""x,]""#],
    );
    check(r#"["\u6f6e\n"]"#, "潮\n", &[]);
    check("[-12.50,1]", "-12.50", &["1"]);
    for data in ["", "[]", "{}", "[true]", "[null,1]", "[\"a\""] {
        assert!(event(data).is_err(), "{data}");
    }
    assert!(matches!(
        event(r#"["plain"]"#).unwrap().name,
        std::borrow::Cow::Borrowed("plain")
    ));
}

#[test]
fn last_string_is_the_last_item_if_it_is_one() {
    fn check(data: &str, expected: Option<&str>) {
        assert_eq!(last_string(data).as_deref(), expected, "{data}");
    }
    check(r#"["m",1,"e-1"]"#, Some("e-1"));
    check(r#"["m"]"#, Some("m"));
    check(r#"["m","a\"b"]"#, Some("a\"b"));
    for data in [
        r#"["m",1]"#,
        r#"["m",["x"]]"#,
        "[]",
        "{}",
        "",
        r#""x""#,
        r#"["m","x""#,
    ] {
        check(data, None);
    }
}

#[test]
fn placeholders_mean_one_of_the_attachments() {
    fn check(data: &str, expected: Result<(), &str>) {
        let result = check_placeholders(data, 2).map_err(|error| error.to_string());
        assert_eq!(result, expected.map_err(str::to_owned), "{data}");
    }
    check(r#"["a",1,-1,1.5,null,true,"x",{}]"#, Ok(()));
    check(
        r#"["a",{"_placeholder":true,"num":0},{"x":[{"num":1,"_placeholder":true}]}]"#,
        Ok(()),
    );
    check(
        r#"[{"_placeholder":true,"num":1,"more":{}},{"_placeholder":true,"num":1}]"#,
        Ok(()),
    );
    check(
        r#"[{"_placeholder":false,"num":9},{"_placeholder":1},{"num":"x"}]"#,
        Ok(()),
    );
    check(r#"[{"_placeholder":true,"num":7,"num":1}]"#, Ok(()));
    check(r#"[{"_placeholder":true,"num":7,"_placeholder":false}]"#, Ok(()));
    check(
        r#"[{"_placeholder":true,"num":2}]"#,
        Err("placeholder for attachment Some(2) of 2"),
    );
    check(
        r#"[{"a":{"_placeholder":true,"num":3}}]"#,
        Err("placeholder for attachment Some(3) of 2"),
    );
    for num in ["-1", "1.0", "0.5", "\"0\"", "null", "true", "[0]", "1e999"] {
        let data = format!(r#"[{{"_placeholder":true,"num":{num}}}]"#);
        assert!(check_placeholders(&data, 2).is_err(), "{num}");
    }
    check(
        r#"[{"_placeholder":true}]"#,
        Err("placeholder for attachment None of 2"),
    );
    check(
        r#"[{"\u005fplaceholder":true,"num":5}]"#,
        Err("placeholder for attachment Some(5) of 2"),
    );
    check("[", Err("payload of 1 bytes is not JSON"));
    check("[]]", Err("payload of 3 bytes is not JSON"));
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    check(&deep, Err("payload of 2000 bytes is not JSON"));
}

#[test]
fn encoders_write_the_message_text() {
    fn check(expected: &str, put: impl Fn(&mut String)) {
        let mut out = "before ".to_owned();
        put(&mut out);
        assert_eq!(out, format!("before {expected}"));
    }
    check("40{\"sid\":\"x\"}", |out| {
        put_connect(out, "/", "{\"sid\":\"x\"}");
    });
    check("40/admin,", |out| put_connect(out, "/admin", ""));
    check("44/admin,{\"message\":\"no\"}", |out| {
        put_connect_error(out, "/admin", "{\"message\":\"no\"}");
    });
    check("41", |out| put_disconnect(out, "/"));
    check("41/admin,", |out| put_disconnect(out, "/admin"));
    check("42[\"m\",1]", |out| {
        put_event(out, "/", None, 0, "[\"m\",1]", None);
    });
    check("42/a,7[\"m\"]", |out| {
        put_event(out, "/a", Some(7), 0, "[\"m\"]", None);
    });
    check("452-[\"m\"]", |out| put_event(out, "/", None, 2, "[\"m\"]", None));
    check("452-/a,7[\"m\"]", |out| {
        put_event(out, "/a", Some(7), 2, "[\"m\"]", None);
    });
    check("4312[]", |out| put_ack(out, "/", 12, 0, "[]"));
    check("461-/a,12[1]", |out| put_ack(out, "/a", 12, 1, "[1]"));
}

#[test]
fn tail_becomes_the_last_argument() {
    fn check(args: &str, expected: &str) {
        let mut out = String::new();
        put_event(&mut out, "/", None, 0, args, Some("e-01"));
        assert_eq!(out, format!("42{expected}"));
        assert_eq!(last_string(&out[2..]).unwrap(), "e-01");
    }
    check(r#"["m",1]"#, r#"["m",1,"e-01"]"#);
    check(r#"["m",["]"]]"#, r#"["m",["]"],"e-01"]"#);
    check("[\"m\"] \n", r#"["m","e-01"]"#);
    check("[ ]", r#"[ "e-01"]"#);
}

#[test]
fn event_names_are_escaped_where_they_must_be() {
    for name in [
        "price",
        "",
        "a\"b",
        "back\\slash",
        "line\nbreak",
        "\u{1}",
        "潮😀",
        "\u{7f}/é",
    ] {
        let mut json = String::new();
        put_event_name_json(&mut json, name);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), name);
        assert_eq!(json, serde_json::to_string(name).unwrap());
    }
}
