//! What real publishers wrote into Redis is understood, and what nobody would write is refused.
//!
//! The bytes in `tests/fixtures/bridge` were captured from the packages that their first lines name.

use tidegate::bridge::formats::{
    Ask, Reason, Refused, read_broadcast, read_entry, read_python, read_request, read_sharded,
};
use tidegate_gateway::{Action, Args, Target};

pub(crate) const NODE: &str = include_str!("../fixtures/bridge/node.txt");
pub(crate) const STREAMS_EMITTER: &str = include_str!("../fixtures/bridge/streams-emitter.txt");
pub(crate) const PYTHON: &str = include_str!("../fixtures/bridge/python.txt");

/// One captured line.
pub(crate) struct Line<'a> {
    /// Format or version.
    pub(crate) of: &'a str,
    pub(crate) name: &'a str,
    /// Channel, or `entry`; empty where the format has none.
    pub(crate) channel: &'a str,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let hex = parts[parts.len() - 1].as_bytes();
        Line {
            of: parts[0],
            name: parts[1],
            channel: if parts.len() == 4 { parts[2] } else { "" },
            payload: hex
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect(),
        }
    })
}

/// Reads a line of `node.txt` as the connection that hears it would.
pub(crate) fn read_node(line: &Line<'_>) -> Result<Ask, Refused> {
    let channel = line.channel.as_bytes();
    match (line.of, line.channel) {
        (_, "entry") => {
            let fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(&line.payload).unwrap();
            let fields = fields
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_str().unwrap().as_bytes()));
            read_entry(fields)
        }
        ("sharded", _) => read_sharded(&line.payload),
        (_, channel_name) if channel_name.starts_with("socket.io-request#") => {
            read_request("socket.io", channel, &line.payload)
        }
        _ => read_broadcast("socket.io", channel, &line.payload),
    }
}

/// What is asked for, on one line, or why it is refused.
fn shown(read: &Result<Ask, Refused>) -> String {
    let names = |targets: &[Target]| {
        let names = targets.iter().map(|target| match target {
            Target::Room(name) => name.clone(),
            Target::Session(id) => format!("session {id}"),
            Target::User(name) => format!("user {name}"),
        });
        names.collect::<Vec<_>>().join(",")
    };
    let to = |namespace: &str, to: &[Target], except: &[Target]| {
        format!("{namespace} to [{}] but [{}]", names(to), names(except))
    };
    match read {
        Ok(Ask::Publish(publication)) => {
            let volatile = if publication.volatile { " volatile" } else { "" };
            let whom = to(&publication.namespace, &publication.to, &publication.except);
            format!("{whom}{volatile} {}", publication.event)
        }
        Ok(Ask::Act(act)) => {
            let whom = to(&act.namespace, &act.to, &act.except);
            match &act.action {
                Action::Join(rooms) => format!("{whom} join {}", rooms.join(",")),
                Action::Leave(rooms) => format!("{whom} leave {}", rooms.join(",")),
                Action::Disconnect { close } => format!("{whom} disconnect close={close}"),
            }
        }
        Ok(Ask::Nothing) => "nothing".to_owned(),
        Err(refused) => refused.reason.as_str().to_owned(),
    }
}

fn args(read: &Result<Ask, Refused>) -> Option<&Args> {
    match read {
        Ok(Ask::Publish(publication)) => Some(&publication.args),
        _ => None,
    }
}

fn bytes(attachments: &[&[u8]]) -> Vec<bytes::Bytes> {
    attachments
        .iter()
        .map(|data| bytes::Bytes::copy_from_slice(data))
        .collect()
}

/// Names, what is asked for, arguments, attachments: the same in every format of Node.
type Row = (&'static str, &'static str, &'static str, &'static [&'static [u8]]);

const ALL: &str = "/ to [] but [] said";
const TO_A: &str = "/ to [a] but [] said";
const TO_A_B: &str = "/ to [a,b] but [] said";
const PLACE: &str = r#"[{"_placeholder":true,"num":0}]"#;

const SAID: [Row; 40] = [
    ("everybody", ALL, r#"[{"text":"hello"}]"#, &[]),
    ("no argument", ALL, "[]", &[]),
    ("several arguments", ALL, r#"[1,"two",{"three":3}]"#, &[]),
    ("value 0", ALL, "[null]", &[]),
    ("value 1", ALL, "[true]", &[]),
    ("value 2", ALL, "[0]", &[]),
    ("value 3", ALL, "[-1]", &[]),
    ("value 4", ALL, "[255]", &[]),
    ("value 5", ALL, "[65536]", &[]),
    ("value 6", ALL, "[-2147483649]", &[]),
    ("value 7", ALL, "[4294967296]", &[]),
    ("value 8", ALL, "[0.1]", &[]),
    ("value 9", ALL, "[1e+21]", &[]),
    ("value 10", ALL, r#"[""]"#, &[]),
    ("value 11", ALL, r#"["quotes \" and \\ and \n"]"#, &[]),
    ("value 12", ALL, r#"["价格 🎉"]"#, &[]),
    ("value 14", ALL, "[[]]", &[]),
    ("value 15", ALL, "[{}]", &[]),
    (
        "value 16",
        ALL,
        r#"[{"nested":[{"deep":{"list":[1,[2,[3]]]}}]}]"#,
        &[],
    ),
    ("value 17", ALL, r#"[{"none":null}]"#, &[]),
    ("value 18", ALL, r#"["1970-01-01T00:00:00.000Z"]"#, &[]),
    ("value 19", ALL, r#"[{"at":"2025-01-01T00:00:00.500Z"}]"#, &[]),
    ("binary", ALL, PLACE, &[&[0, 1, 2, 255]]),
    (
        "binary inside",
        ALL,
        r#"[{"parts":[{"_placeholder":true,"num":0},{"two":{"_placeholder":true,"num":1}}]},"end"]"#,
        &[b"one", &[9, 8]],
    ),
    ("empty binary", TO_A, PLACE, &[b""]),
    ("one room", TO_A, r#"["to a"]"#, &[]),
    ("one room, binary", TO_A, PLACE, &[b"to a"]),
    (
        "a room with a number as its name",
        "/ to [7] but [] said",
        r#"["to 7"]"#,
        &[],
    ),
    (
        "a room of twenty letters",
        "/ to [aaaaaaaaaaaaaaaaaaaa] but [] said",
        r#"["to a long name"]"#,
        &[],
    ),
    (
        "a room that nobody is in",
        "/ to [nobody] but [] said",
        r#"["to nobody"]"#,
        &[],
    ),
    ("several rooms", TO_A_B, r#"["to a and b"]"#, &[]),
    ("rooms one by one", TO_A_B, r#"["to a and b again"]"#, &[]),
    (
        "everybody but a room",
        "/ to [] but [a] said",
        r#"["not to a"]"#,
        &[],
    ),
    (
        "a room but those of another",
        "/ to [a,b] but [b] said",
        r#"["to a, not b"]"#,
        &[],
    ),
    (
        "one session",
        "/ to [aaaaaaaaaaaaaaaaaaaA] but [] said",
        r#"["to one"]"#,
        &[],
    ),
    (
        "everybody but one session",
        "/ to [] but [aaaaaaaaaaaaaaaaaaaA] said",
        r#"["not to one"]"#,
        &[],
    ),
    (
        "volatile",
        "/ to [] but [] volatile perhaps",
        r#"["may be lost"]"#,
        &[],
    ),
    ("uncompressed", ALL, r#"["plain"]"#, &[]),
    (
        "another namespace",
        "/other to [] but [] said",
        r#"["in /other"]"#,
        &[],
    ),
    (
        "a room of another namespace",
        "/other to [a] but [] said",
        r#"["in a of /other"]"#,
        &[],
    ),
];

/// What is done to sessions, and what is not for clients.
const DONE: [(&str, &str); 9] = [
    ("join", "/ to [aaaaaaaaaaaaaaaaaaaA] but [] join a,c"),
    ("join one", "/ to [a,b] but [c] join d"),
    ("leave", "/ to [a] but [] leave c"),
    (
        "disconnect",
        "/ to [bbbbbbbbbbbbbbbbbbbB] but [] disconnect close=false",
    ),
    ("disconnect and close", "/ to [] but [] disconnect close=true"),
    ("for servers", "server_side"),
    ("with acknowledgement", "answer_wanted"),
    ("who is there", "answer_wanted"),
    ("for servers, with acknowledgement", "server_side"),
];

#[test]
fn what_node_publishers_say_is_understood() {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for line in lines(NODE).chain(lines(STREAMS_EMITTER)) {
        let read = read_node(&line);
        *seen.entry(line.of).or_default() += 1;
        if let Some((_, done)) = DONE.iter().find(|(name, _)| *name == line.name) {
            assert_eq!(shown(&read), *done, "{} {}", line.of, line.name);
            continue;
        }
        let said = SAID.iter().find(|(name, ..)| *name == line.name);
        let (_, whom, json, attachments) = said.unwrap_or_else(|| panic!("{} is not expected", line.name));
        assert_eq!(shown(&read), *whom, "{} {}", line.of, line.name);
        // Its encoder cuts what is beyond 64 bits; clients of a Node server get the same.
        let is_cut = (line.of, line.name) == ("classic", "value 9");
        let json = if is_cut { "[3875820019684212736]" } else { json };
        let expected = Args::from_json_array(json, bytes(attachments)).unwrap();
        assert_eq!(args(&read), Some(&expected), "{} {}", line.of, line.name);
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [("classic", 47), ("emitter", 46), ("sharded", 49), ("streams", 47)]
    );
}

const PYTHON_SAID: [Row; 15] = [
    ("everybody", ALL, r#"[{"text": "hello"}]"#, &[]),
    ("no argument", ALL, "[]", &[]),
    ("several arguments", ALL, r#"[1,"two",{"three": 3}]"#, &[]),
    ("a list", ALL, "[[1, 2]]", &[]),
    ("text", ALL, r#"["\u4ef7\u683c \ud83c\udf89"]"#, &[]),
    ("numbers", ALL, "[0,-1,0.1,9007199254740992,true]", &[]),
    (
        "binary",
        ALL,
        r#"[{"_placeholder": true, "num": 0}]"#,
        &[&[0, 1, 2, 255]],
    ),
    (
        "binary inside",
        ALL,
        r#"[{"parts": [{"_placeholder": true, "num": 0}, {"two": {"_placeholder": true, "num": 1}}]},"end"]"#,
        &[b"one", b""],
    ),
    ("one room", TO_A, r#"["to a"]"#, &[]),
    ("several rooms", TO_A_B, r#"["to a and b"]"#, &[]),
    (
        "a room with a number as its name",
        "/ to [7] but [] said",
        r#"["to 7"]"#,
        &[],
    ),
    (
        "everybody but one",
        "/ to [] but [aaaaaaaaaaaaaaaaaaaA] said",
        r#"["not to one"]"#,
        &[],
    ),
    (
        "everybody but some",
        "/ to [] but [aaaaaaaaaaaaaaaaaaaA] said",
        r#"["not to some"]"#,
        &[],
    ),
    (
        "one session",
        "/ to [aaaaaaaaaaaaaaaaaaaA] but [] said",
        r#"["to one"]"#,
        &[],
    ),
    (
        "another namespace",
        "/other to [] but [] said",
        r#"["in /other"]"#,
        &[],
    ),
];

const PYTHON_DONE: [(&str, &str); 4] = [
    ("enter", "/ to [session aaaaaaaaaaaaaaaaaaaA] but [] join a"),
    ("leave", "/ to [session aaaaaaaaaaaaaaaaaaaA] but [] leave a"),
    ("close", "/ to [a] but [] leave a"),
    (
        "disconnect",
        "/ to [session aaaaaaaaaaaaaaaaaaaA] but [] disconnect close=false",
    ),
];

/// What versions made of arguments before they made a list of them each time.
fn of_old(version: &str, name: &str) -> Option<&'static str> {
    match (version, name) {
        // A tuple is a list in JSON, and a list was one argument.
        ("5.14.0", "several arguments") => Some(r#"[[1, "two", {"three": 3}]]"#),
        ("5.14.0", "numbers") => Some("[[0, -1, 0.1, 9007199254740992, true]]"),
        // From here on newer servers of python-socketio take a list as arguments, whoever sent it.
        ("5.14.2", "a list") => Some("[1,2]"),
        _ => None,
    }
}

#[test]
fn what_python_managers_say_is_understood() {
    let mut n_seen = 0;
    for line in lines(PYTHON) {
        n_seen += 1;
        let read = read_python(&line.payload);
        if line.of == "5.13.0" {
            assert_eq!(shown(&read), "pickle", "{}", line.name);
            continue;
        }
        if let Some((_, done)) = PYTHON_DONE.iter().find(|(name, _)| *name == line.name) {
            assert_eq!(shown(&read), *done, "{} {}", line.of, line.name);
            continue;
        }
        let said = PYTHON_SAID.iter().find(|(name, ..)| *name == line.name);
        let (_, whom, json, attachments) = said.unwrap_or_else(|| panic!("{} is not expected", line.name));
        assert_eq!(shown(&read), *whom, "{} {}", line.of, line.name);
        let json = of_old(line.of, line.name).unwrap_or(json);
        let expected = Args::from_json_array(json, bytes(attachments)).unwrap();
        assert_eq!(args(&read), Some(&expected), "{} {}", line.of, line.name);
    }
    assert_eq!(n_seen, 73);
}

fn check(read: &Result<Ask, Refused>, expected: Reason) {
    let reason = read.as_ref().map_err(|refused| refused.reason);
    assert_eq!(reason.map(|ask| format!("{ask:?}")), Err(expected), "{read:?}");
}

#[test]
fn python_messages_that_are_none_are_refused() {
    let deep = ["[".repeat(1_000), "]".repeat(1_000)].concat();
    let deep = format!(r#"{{"method":"emit","event":"e","binary":false,"data":{deep}}}"#);
    let emit = |data: &str, more: &str| {
        format!(r#"{{"method":"emit","event":"e","binary":false,"data":[{data}]{more}}}"#)
    };
    let many = emit(&["1"; 1_002].join(","), "");
    let crowd = emit("1", &format!(r#","room":[{}]"#, ["1"; 10_001].join(",")));
    for (payload, reason) in [
        (
            r#"{"method":"emit","event":"e","data":[1],"binary":false,"callback":["r","/",1]}"#,
            Reason::AnswerWanted,
        ),
        (r#"{"method":"eval","code":"1"}"#, Reason::UnknownMethod),
        (r#"{"event":"e"}"#, Reason::Malformed),
        (
            r#"{"method":"emit","data":[1],"binary":false}"#,
            Reason::Malformed,
        ),
        (
            r#"{"method":"emit","event":"e","data":[NaN],"binary":false}"#,
            Reason::Malformed,
        ),
        (
            r#"{"method":"emit","event":"e","data":[[{"_placeholder":true,"num":7}],"AA=="],"binary":true}"#,
            Reason::Malformed,
        ),
        (
            r#"{"method":"emit","event":"e","data":[[],"*"],"binary":true}"#,
            Reason::Malformed,
        ),
        (
            r#"{"method":"emit","event":"e","data":[],"binary":true}"#,
            Reason::Malformed,
        ),
        (r#"{"method":"enter_room","sid":"x"}"#, Reason::Malformed),
        (r#"{"method":"disconnect"}"#, Reason::Malformed),
        (
            r#"{"method":"emit","event":"e","data":[1],"room":{"a":1}}"#,
            Reason::Malformed,
        ),
        (&deep, Reason::TooDeep),
        (&many, Reason::TooLarge),
        (&crowd, Reason::TooLarge),
        ("", Reason::Malformed),
        ("[]", Reason::Malformed),
        ("(dp0\n.", Reason::Pickle),
        ("}q\0.", Reason::Pickle),
    ] {
        check(&read_python(payload.as_bytes()), reason);
    }
    assert_eq!(shown(&read_python(br#"{"method":"callback","id":1}"#)), "nothing");
    let long = format!(r#"{{"method":"{}"}}"#, "\u{e9}".repeat(5_000));
    let refused = read_python(long.as_bytes()).unwrap_err();
    assert!(refused.about.len() <= 200, "{refused}");
}

#[test]
fn an_empty_list_of_rooms_is_nobody_and_none_is_everybody() {
    let check = |room: &str, expected: &str| {
        let payload = format!(r#"{{"method":"emit","event":"e","data":[1],"binary":false{room}}}"#);
        assert_eq!(shown(&read_python(payload.as_bytes())), expected, "{payload}");
    };
    check("", "/ to [] but [] e");
    check(r#","room":null"#, "/ to [] but [] e");
    check(r#","room":[]"#, "nothing");
    check(r#","room":["a"]"#, "/ to [a] but [] e");
}

#[test]
fn what_is_json_and_no_text_or_number_here_goes_on_as_it_is() {
    for value in [r#""\ud83d""#, "1e999", r#"{"a":["\udc00",-1e400]}"#] {
        let payload = format!(r#"{{"method":"emit","event":"e","data":[{value}],"binary":false}}"#);
        let read = read_python(payload.as_bytes());
        let bytes = args(&read).map(Args::bytes);
        assert_eq!(bytes, Some(value.len()), "{value}: {read:?}");
    }
}

#[test]
fn broadcasts_that_are_none_are_refused() {
    let on = |channel: &str, payload: &[u8]| read_broadcast("socket.io", channel.as_bytes(), payload);
    for (channel, payload, reason) in [
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":["e"],"nsp":"/x"},{}]"#,
            Reason::Malformed,
        ),
        (
            "other#/#",
            r#"["u",{"type":2,"data":["e"],"nsp":"/"},{}]"#,
            Reason::Malformed,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":4,"data":["e"],"nsp":"/"},{}]"#,
            Reason::UnknownMethod,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":["e"],"id":3},{}]"#,
            Reason::AnswerWanted,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":[]},{}]"#,
            Reason::Malformed,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":[{"e":1}]},{}]"#,
            Reason::Malformed,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":{}},{}]"#,
            Reason::Malformed,
        ),
        (
            "socket.io#/#",
            r#"["u",{"type":2,"data":["e"]},{"rooms":{"a":1}}]"#,
            Reason::Malformed,
        ),
        ("socket.io#/#", r#"["u"]"#, Reason::Malformed),
        ("socket.io#/#", r#"{"type":99}"#, Reason::UnknownMethod),
        ("socket.io#/#", "\u{1}", Reason::Malformed),
        ("socket.io#/#", "", Reason::Malformed),
    ] {
        check(&on(channel, payload.as_bytes()), reason);
    }
    check(&on("socket.io#/#", &[0x91; 500]), Reason::TooDeep);
    check(
        &on("socket.io#/#", &[0xdd, 0xff, 0xff, 0xff, 0xff]),
        Reason::Malformed,
    );
    // Emitters of Socket.IO 2 say neither namespace nor exceptions, and another type for binary.
    let old = on(
        "socket.io#/#",
        br#"["u",{"type":5,"data":["e"]},{"rooms":["a"],"flags":{}}]"#,
    );
    assert_eq!(shown(&old), "/ to [a] but [] e");
    // Servers of a cluster are heard beside them.
    assert_eq!(
        shown(&on("socket.io#/#x#", br#"{"type":2,"uid":"x","nsp":"/"}"#)),
        "nothing"
    );
}

#[test]
fn requests_that_are_none_are_refused() {
    let on = |channel: &str, payload: &str| read_request("socket.io", channel.as_bytes(), payload.as_bytes());
    for (channel, payload, reason) in [
        (
            "socket.io-request#/#",
            r#"{"type":1,"requestId":"x"}"#,
            Reason::AnswerWanted,
        ),
        (
            "socket.io-request#/#",
            r#"{"type":2,"sid":"x","room":"a"}"#,
            Reason::AnswerWanted,
        ),
        ("socket.io-request#/#", r#"{"type":77}"#, Reason::UnknownMethod),
        ("socket.io-request#/#", r#"{"type":"2"}"#, Reason::Malformed),
        ("socket.io-request#/#", "{", Reason::Malformed),
        (
            "socket.io-request#x#",
            r#"{"type":3,"opts":{},"rooms":[]}"#,
            Reason::Malformed,
        ),
        (
            "socket.io#/#",
            r#"{"type":3,"opts":{},"rooms":[]}"#,
            Reason::Malformed,
        ),
    ] {
        check(&on(channel, payload), reason);
    }
}

#[test]
fn entries_that_are_none_are_refused() {
    let entry = |fields: &[(&str, &str)]| {
        read_entry(
            fields
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )
    };
    check(&entry(&[]), Reason::Malformed);
    check(&entry(&[("type", "x")]), Reason::Malformed);
    check(&entry(&[("type", "3")]), Reason::Malformed);
    check(
        &entry(&[("type", "3"), ("data", "no base64!")]),
        Reason::Malformed,
    );
    check(&entry(&[("type", "3"), ("data", "wQ==")]), Reason::Malformed);
    check(&entry(&[("type", "200"), ("data", "{}")]), Reason::UnknownMethod);
    assert_eq!(
        shown(&entry(&[("type", "2"), ("uid", "u"), ("nsp", "/")])),
        "nothing"
    );
    // As the emitter writes it, which has one id for all and says nothing of itself.
    let said =
        r#"{"packet":{"type":2,"data":["said",1],"nsp":"/"},"opts":{"rooms":["a"],"flags":{},"except":[]}}"#;
    let read = entry(&[("uid", "emitter"), ("nsp", "/"), ("type", "3"), ("data", said)]);
    assert_eq!(shown(&read), TO_A);
}
