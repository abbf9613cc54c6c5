//! The client's address behind proxies: forwarding headers, believed only as far as trusted proxies wrote them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Most networks of the list: each is compared for every hop.
const NETWORKS_MAX: usize = 256;

/// Most hops that are followed: no chain of proxies is longer, but a forged header may be.
const HOPS_MAX: usize = 32;

/// Networks of proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trusted {
    networks: Box<[Network]>,
}

/// An entry of the list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NetworkError {
    /// The entry is neither an address nor a network.
    #[error("network {entry:?}: allowed are \"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\"")]
    Form {
        /// The entry as written.
        entry: String,
    },
    /// The prefix is longer than the address.
    #[error("network {entry:?}: prefix {bits}, allowed 0 to {max}")]
    Prefix {
        /// The entry as written.
        entry: String,
        /// Its prefix length in bits.
        bits: u8,
        /// The length of the address in bits.
        max: u8,
    },
    /// Bits behind the prefix are set, so that it is not clear what is meant.
    #[error("network {entry:?}: bits are set behind the prefix, the network is {network}")]
    HostBits {
        /// The entry as written.
        entry: String,
        /// The network that contains it.
        network: String,
    },
    /// The list is too long.
    #[error("{count} networks, allowed 0 to {max}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
}

/// The first `bits` bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// The address of the client that `peer` speaks for.
///
/// The walk begins at `peer` and goes from right to left, one entry for each trusted proxy; it ends at the first
/// address that is not trusted, at an entry that is no address, or after 32 hops.
///
/// Three headers are known: `X-Forwarded-For`, `Forwarded` (RFC 7239), `X-Real-IP`. A proxy that writes one of them
/// passes the others on as the client sent them, so where they lead to different addresses none is believed, and
/// the answer is `peer`. One that leads nowhere, or only to a trusted proxy, does not count.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &Trusted) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return peer;
    }
    let found = [
        walk(peer, entries(headers, &X_FORWARDED_FOR).map(address), trusted),
        walk(peer, forwarded(headers), trusted),
        walk(peer, entries(headers, &X_REAL_IP).map(address), trusted),
    ];
    let mut clients = found.iter().filter(|&&found| !trusted.contains(found));
    match clients.next() {
        Some(&client) => {
            if clients.all(|&other| other == client) {
                client
            } else {
                peer
            }
        }
        // Everyone on the way is trusted: an inner service, named by the header that leads farthest.
        None => found.into_iter().find(|&found| found != peer).unwrap_or(peer),
    }
}

// === impl Trusted ===

impl Trusted {
    /// Reads a list of networks and single addresses, of IPv4 and IPv6.
    ///
    /// # Errors
    /// The first entry that is not one, or that has bits set behind its prefix.
    pub(crate) fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, NetworkError> {
        if list.len() > NETWORKS_MAX {
            return Err(NetworkError::TooMany {
                count: list.len(),
                max: NETWORKS_MAX,
            });
        }
        let networks = list.iter().map(|entry| Network::parse(entry.as_ref()));
        Ok(Self {
            networks: networks.collect::<Result<_, _>>()?,
        })
    }

    /// Whether `address` is a trusted proxy: its forwarding headers, and the user it names, are believed.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
    }
}

// === impl Network ===

impl Network {
    fn parse(entry: &str) -> Result<Self, NetworkError> {
        let form = || NetworkError::Form {
            entry: entry.to_owned(),
        };
        let (address, bits) = match entry.split_once('/') {
            None => (entry, None),
            Some((address, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().map_err(|_| form())?))
            }
            Some(_) => return Err(form()),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let max = length(address);
        let bits = bits.unwrap_or(max);
        if bits > max {
            return Err(NetworkError::Prefix {
                entry: entry.to_owned(),
                bits,
                max,
            });
        }
        let network = Self {
            address: mask(address, bits),
            bits,
        };
        if network.address != address {
            let network = format!("{}/{bits}", network.address);
            return Err(NetworkError::HostBits {
                entry: entry.to_owned(),
                network,
            });
        }
        Ok(network.canonical())
    }

    /// A network of IPv4 addresses written as IPv6 ones is the IPv4 network: addresses are compared in that form.
    fn canonical(self) -> Self {
        match (self.address, self.address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if self.bits >= 96 => Self {
                address: v4,
                bits: self.bits - 96,
            },
            _ => self,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        length(address) == length(self.address) && mask(address, self.bits) == self.address
    }
}

/// Length of `address` in bits.
fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with all but its first `bits` bits cleared.
fn mask(address: IpAddr, bits: u8) -> IpAddr {
    let shift = u32::from(length(address) - bits);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into(),
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()
        }
    }
}

// === walking ===

/// The last address on the way from `peer` through `hops`, the nearest first; `None` is an entry without address.
fn walk(peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>, trusted: &Trusted) -> IpAddr {
    let mut reached = peer;
    for hop in hops.take(HOPS_MAX) {
        match hop.filter(|_| trusted.contains(reached)) {
            Some(address) => reached = address,
            None => break,
        }
    }
    reached
}

/// All entries of a header that lists with commas, the last first; several lines count as one (RFC 9110, 5.3).
/// A line that is not text gives one entry without address.
fn entries<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("").rsplit(','))
}

/// The `for` entries of `Forwarded`, the last first.
///
/// Quotes are honoured: a client that chose a host name with a comma in it would else write entries of its own. A
/// header with unpaired quotes, or with more elements than hops are followed, leads nowhere.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let mut hops = Vec::new();
    for line in headers.get_all(FORWARDED) {
        let elements = line.to_str().ok().and_then(|line| split_unquoted(line, b','));
        match elements {
            Some(elements) => hops.extend(elements.into_iter().map(element_address)),
            None => hops.push(None),
        }
        if hops.len() > HOPS_MAX {
            hops.clear();
            break;
        }
    }
    hops.into_iter().rev()
}

/// The address in the only `for` pair of an element.
fn element_address(element: &str) -> Option<IpAddr> {
    let pairs = split_unquoted(element, b';')?;
    let mut values = pairs.into_iter().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    address(
        value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap_or(value),
    )
}

/// Splits `text` at each `separator` outside quotes, where a backslash takes the next byte's meaning away; `None`
/// if a quote stays open or there are more than [`HOPS_MAX`] parts.
fn split_unquoted(text: &str, separator: u8) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!quoted && parts.len() <= HOPS_MAX).then_some(parts)
}

/// An address, perhaps with a port, IPv6 perhaps in brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(entry);
    let address = bare
        .parse()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|entry| entry.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> Trusted {
        Trusted::parse(&["10.0.0.0/8", "2001:db8:1::/48"]).unwrap()
    }

    fn check(peer: &str, lines: &[(&'static str, &str)], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let client = client_address(peer.parse().unwrap(), &headers, &trusted());
        assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
    }

    fn check_xff(value: &str, expected: &str) {
        check(PROXY, &[("x-forwarded-for", value)], expected);
    }

    fn check_forwarded(value: &str, expected: &str) {
        check(PROXY, &[("forwarded", value)], expected);
    }

    #[test]
    fn a_stranger_is_not_believed() {
        check("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")], "192.0.2.1");
        check(
            "::ffff:192.0.2.1",
            &[("forwarded", "for=198.51.100.1")],
            "192.0.2.1",
        );
        check(PROXY, &[], PROXY);
    }

    #[test]
    fn the_walk_goes_from_the_right_past_trusted_hops_only() {
        check_xff("192.0.2.1", "192.0.2.1");
        check_xff("198.51.100.9, 192.0.2.1", "192.0.2.1");
        check_xff("198.51.100.9,192.0.2.1 , 10.9.9.9", "192.0.2.1");
        check_xff("10.1.1.1, 10.2.2.2", "10.1.1.1");
        check_xff("192.0.2.1, 2001:db8:1::5", "192.0.2.1");
        check_xff("::ffff:192.0.2.1", "192.0.2.1");
        check(
            "::ffff:10.0.0.1",
            &[("x-forwarded-for", "2001:db8::7")],
            "2001:db8::7",
        );
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        check_xff("192.0.2.1:4711", "192.0.2.1");
        check_xff("[2001:db8::7]", "2001:db8::7");
        check_xff("[2001:db8::7]:4711", "2001:db8::7");
    }

    #[test]
    fn a_malformed_entry_ends_the_walk() {
        for value in [
            "",
            ",",
            "unknown",
            "192.0.2.1,",
            "192.0.2.1, x",
            "192.0.2.1 192.0.2.2",
            "192.0.2.256",
            "é",
        ] {
            check_xff(value, PROXY);
        }
        check_xff("192.0.2.1, x, 10.2.2.2", "10.2.2.2");
    }

    #[test]
    fn several_lines_are_one_list() {
        check(
            PROXY,
            &[
                ("x-forwarded-for", "198.51.100.9"),
                ("x-forwarded-for", "192.0.2.1"),
            ],
            "192.0.2.1",
        );
        check(
            PROXY,
            &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.2.2.2")],
            "192.0.2.1",
        );
    }

    #[test]
    fn a_long_chain_is_not_followed_to_its_end() {
        let chain = |hops: usize| format!("192.0.2.1{}", ", 10.2.2.2".repeat(hops));
        check_xff(&chain(31), "192.0.2.1");
        check_xff(&chain(32), "10.2.2.2");
        let chain = |hops: usize| format!("for=192.0.2.1{}", ", for=10.2.2.2".repeat(hops));
        check_forwarded(&chain(31), "192.0.2.1");
        check_forwarded(&chain(32), PROXY);
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:80\";proto=https;by=10.0.0.1", "192.0.2.1"),
            ("proto=http; for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=198.51.100.9, for=192.0.2.1, for=10.3.3.3", "192.0.2.1"),
            ("for=192.0.2.1;host=\"a, for=6.6.6.6;y=\"", "192.0.2.1"),
            ("for=192.0.2.1;host=\"a\\\", for=6.6.6.6;y=\"", "192.0.2.1"),
            // A client's open quote must not swallow what the proxy wrote behind it.
            ("for=6.6.6.6;x=\", for=192.0.2.1", PROXY),
            ("for=6.6.6.6;x=\", for=\"[2001:db8::7]\"", PROXY),
            ("for=192.0.2.1;for=6.6.6.6", PROXY),
            ("for=unknown", PROXY),
            ("for=_hidden", PROXY),
            ("by=192.0.2.1", PROXY),
            ("", PROXY),
        ] {
            check_forwarded(value, expected);
        }
    }

    #[test]
    fn headers_that_contradict_each_other_are_not_believed() {
        let [client, forged] = ["192.0.2.1", "6.6.6.6"];
        check(PROXY, &[("x-real-ip", client)], client);
        check(
            PROXY,
            &[
                ("x-real-ip", client),
                ("x-forwarded-for", client),
                ("forwarded", "for=192.0.2.1"),
            ],
            client,
        );
        check(
            PROXY,
            &[("x-real-ip", forged), ("x-forwarded-for", client)],
            PROXY,
        );
        check(
            PROXY,
            &[("x-real-ip", client), ("x-forwarded-for", forged)],
            PROXY,
        );
        check(
            PROXY,
            &[("x-forwarded-for", client), ("forwarded", "for=6.6.6.6")],
            PROXY,
        );
        // The inner of two proxies names the outer one; that says nothing about the client.
        check(
            PROXY,
            &[
                ("x-real-ip", "10.2.2.2"),
                ("x-forwarded-for", "192.0.2.1, 10.2.2.2"),
            ],
            client,
        );
    }

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.9", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
        ] {
            let trusted = Trusted::parse(&[network]).unwrap();
            assert_eq!(
                trusted.contains(address.parse().unwrap()),
                expected,
                "{address} in {network}"
            );
        }
        assert!(!Trusted::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn other_entries_are_refused() {
        for entry in [
            "",
            "localhost",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "/8",
            "10.0.0.0/256",
        ] {
            assert_eq!(
                Trusted::parse(&[entry]),
                Err(NetworkError::Form {
                    entry: entry.to_owned()
                })
            );
        }
        let prefix = NetworkError::Prefix {
            entry: "10.0.0.0/33".into(),
            bits: 33,
            max: 32,
        };
        assert_eq!(Trusted::parse(&["10.0.0.0/33"]), Err(prefix));
        let bits = NetworkError::HostBits {
            entry: "10.0.0.1/8".into(),
            network: "10.0.0.0/8".into(),
        };
        assert_eq!(Trusted::parse(&["10.0.0.1/8"]), Err(bits));
        let many = vec!["::1"; 257];
        assert_eq!(
            Trusted::parse(&many),
            Err(NetworkError::TooMany { count: 257, max: 256 })
        );
    }
}
