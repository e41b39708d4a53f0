//! The rules, as text that `nft` loads and people can read.
//!
//! Principles:
//! - Whatever is not let through is refused, also when nobody reads the log (the chain's policy is drop).
//! - Deny stands before allow, and before established connections: a deny cuts what is already open.
//! - An outgoing packet passes because of a rule that holds now, not because its connection was once let
//!   through: a timed accept ends for open connections too. Only answers to connections that were made from
//!   outside pass as such.
//! - Destinations are de-duplicated in the kernel: one log entry per destination and port within
//!   [`WINDOW_SECONDS`]. What does not fit is counted (`unasked`), not forgotten.
//! - Text from outside never reaches this file: only addresses and numbers that were parsed.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::packet::{self, Destination};
use crate::profile::Network;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "terok_shield";

/// How long a destination that was asked about is not asked about again.
pub const WINDOW_SECONDS: u32 = 5;

/// How many destinations are told within a window, for each address family.
pub const WINDOW_SIZE: u32 = 4096;

/// What the rules are to say.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Networks that are let through.
    pub allowed: Vec<Network>,
    /// Addresses that are refused.
    pub denied: Vec<Network>,
    /// Destinations that are let through.
    pub allowed_ports: Vec<Destination>,
    /// Destinations that are refused.
    pub denied_ports: Vec<Destination>,
    /// Addresses of gateways, which are let through.
    pub gateways: Vec<IpAddr>,
    /// Ask about private networks too, instead of refusing them silently.
    pub ask_private: bool,
    /// Leave name resolution alone: no names are known then.
    pub without_names: bool,
}

/// One address family's words.
struct Family {
    suffix: &'static str,
    protocol: &'static str,
    address: &'static str,
    address_type: &'static str,
    private: &'static str,
    loopback: &'static str,
    multicast: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        suffix: "v4",
        protocol: "ipv4",
        address: "ip daddr",
        address_type: "ipv4_addr",
        private: "{ 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 255.255.255.255 }",
        loopback: "127.0.0.0/8",
        multicast: "224.0.0.0/4",
    },
    Family {
        suffix: "v6",
        protocol: "ipv6",
        address: "ip6 daddr",
        address_type: "ipv6_addr",
        private: "{ ::/128, ::1/128, fc00::/7, fe80::/10 }",
        loopback: "::1",
        multicast: "ff00::/8",
    },
];

/// Protocols whose header begins with ports.
const WITH_PORTS: &str = "{ tcp, udp, dccp, sctp, udplite }";

impl Rules {
    /// The rules for `nft -f`: one transaction, which replaces a table that is already there.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Written by shield-bridge. Read it freely; `shield-bridge up` writes it again."
        )?;
        writeln!(
            out,
            "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{"
        )?;
        writeln!(
            out,
            "  # Refused packets that were not logged because too many destinations were tried at once."
        )?;
        writeln!(out, "  counter unasked {{ }}")?;
        writeln!(
            out,
            "  # While this holds an address family, everything but the denied is let through."
        )?;
        writeln!(out, "  set open {{ type nf_proto; flags timeout; }}")?;
        for family in &FAMILIES {
            self.write_sets(out, family)?;
        }
        if !self.without_names {
            writeln!(
                out,
                "\n  # Questions for names go to the bridge, which listens inside the namespace."
            )?;
            writeln!(out, "  chain names {{")?;
            writeln!(
                out,
                "    type nat hook output priority -101; policy accept;"
            )?;
            for family in &FAMILIES {
                writeln!(
                    out,
                    "    {} != {} meta l4proto {{ tcp, udp }} th dport 53 redirect to :53",
                    family.address, family.loopback
                )?;
            }
            writeln!(
                out,
                "    ip daddr 127.0.0.11 meta l4proto {{ tcp, udp }} th dport 53 redirect to :53"
            )?;
            writeln!(out, "  }}")?;
        }
        writeln!(
            out,
            "\n  # What is refused ends at once. An ICMP error would reach a TCP socket while connect() holds it, and wait a second."
        )?;
        writeln!(out, "  chain refuse {{")?;
        writeln!(out, "    meta l4proto tcp reject with tcp reset")?;
        writeln!(out, "    reject with icmpx type admin-prohibited\n  }}")?;
        for family in &FAMILIES {
            self.write_chains(out, family)?;
        }
        writeln!(out, "\n  chain judge {{")?;
        writeln!(
            out,
            "    # Neighbours and routers have to be found, or there is no IPv6."
        )?;
        writeln!(
            out,
            "    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} ip6 hoplimit 255 accept"
        )?;
        writeln!(out, "    # Nobody is reached by way of somebody else.")?;
        writeln!(out, "    ip option lsrr exists goto refuse")?;
        writeln!(out, "    ip option ssrr exists goto refuse")?;
        writeln!(out, "    exthdr rt exists goto refuse")?;
        writeln!(out, "    meta nfproto ipv4 goto judge_v4")?;
        writeln!(out, "    meta nfproto ipv6 goto judge_v6\n    drop\n  }}")?;
        writeln!(out, "\n  chain output {{")?;
        writeln!(
            out,
            "    type filter hook output priority filter; policy drop;"
        )?;
        writeln!(out, "    oifname \"lo\" accept\n    goto judge\n  }}")?;
        writeln!(
            out,
            "\n  # Containers inside the container, whose packets only pass through."
        )?;
        writeln!(out, "  chain forward {{")?;
        writeln!(
            out,
            "    type filter hook forward priority filter; policy drop;\n    goto judge\n  }}\n}}"
        )
    }

    fn write_sets(&self, out: &mut String, family: &Family) -> std::fmt::Result {
        let Family {
            suffix: s,
            address_type: t,
            ..
        } = family;
        let v6 = *s == "v6";
        let ours = |n: &&Network| n.address().is_ipv6() == v6;
        let single = |list: &[Network]| {
            braces(
                list.iter()
                    .filter(ours)
                    .filter(|n| n.is_single())
                    .map(|n| n.address().to_string()),
            )
        };
        let wide = |list: &[Network]| {
            braces(
                list.iter()
                    .filter(ours)
                    .filter(|n| !n.is_single())
                    .map(ToString::to_string),
            )
        };
        let of = |list: &[Destination], ports: bool| {
            braces(
                list.iter()
                    .filter(|d| d.address.is_ipv6() == v6 && packet::has_ports(d.proto) == ports)
                    .map(|d| {
                        if ports {
                            format!("{} . {} . {}", d.address, d.proto, d.port)
                        } else {
                            format!("{} . {}", d.address, d.proto)
                        }
                    }),
            )
        };
        writeln!(
            out,
            "\n  set deny_{s} {{ type {t}; flags timeout;{} }}",
            single(&self.denied)
        )?;
        writeln!(
            out,
            "  set deny_net_{s} {{ type {t}; flags interval; auto-merge;{} }}",
            wide(&self.denied)
        )?;
        writeln!(
            out,
            "  set deny_port_{s} {{ type {t} . inet_proto . inet_service; flags timeout;{} }}",
            of(&self.denied_ports, true)
        )?;
        writeln!(
            out,
            "  set deny_proto_{s} {{ type {t} . inet_proto; flags timeout;{} }}",
            of(&self.denied_ports, false)
        )?;
        writeln!(
            out,
            "  set allow_{s} {{ type {t}; flags timeout;{} }}",
            single(&self.allowed)
        )?;
        writeln!(
            out,
            "  set allow_net_{s} {{ type {t}; flags interval; auto-merge;{} }}",
            wide(&self.allowed)
        )?;
        writeln!(
            out,
            "  set allow_port_{s} {{ type {t} . inet_proto . inet_service; flags timeout;{} }}",
            of(&self.allowed_ports, true)
        )?;
        writeln!(
            out,
            "  set allow_proto_{s} {{ type {t} . inet_proto; flags timeout;{} }}",
            of(&self.allowed_ports, false)
        )?;
        let gateways = self.gateways.iter().filter(|a| a.is_ipv6() == v6);
        writeln!(
            out,
            "  set gateway_{s} {{ type {t};{} }}",
            braces(gateways.map(ToString::to_string))
        )?;
        writeln!(
            out,
            "  # Addresses of allowed names; one that is used stays."
        )?;
        writeln!(
            out,
            "  set named_{s} {{ type {t}; flags dynamic,timeout; timeout 1h; size 16384; }}"
        )?;
        writeln!(out, "  # Destinations that were logged a moment ago.")?;
        writeln!(
            out,
            "  set seen_{s} {{ type {t} . inet_proto . inet_service; flags dynamic,timeout; timeout {WINDOW_SECONDS}s; size {WINDOW_SIZE}; }}"
        )?;
        writeln!(
            out,
            "  set seen_proto_{s} {{ type {t} . inet_proto; flags dynamic,timeout; timeout {WINDOW_SECONDS}s; size {WINDOW_SIZE}; }}"
        )?;
        writeln!(
            out,
            "  # The same for what was decided: the log has it once a minute."
        )?;
        writeln!(
            out,
            "  set noted_{s} {{ type {t} . inet_proto . inet_service; flags dynamic,timeout; timeout 1m; size {WINDOW_SIZE}; }}"
        )?;
        writeln!(
            out,
            "  set noted_proto_{s} {{ type {t} . inet_proto; flags dynamic,timeout; timeout 1m; size {WINDOW_SIZE}; }}"
        )
    }

    fn write_chains(&self, out: &mut String, family: &Family) -> std::fmt::Result {
        let Family {
            suffix: s,
            address: a,
            protocol,
            private,
            multicast,
            loopback,
            ..
        } = family;
        let port = format!("{a} . meta l4proto . th dport");
        let proto = format!("{a} . meta l4proto");
        let note = |word: &str, when: &str| {
            let log = format!("log group 100 snaplen 128 prefix \"TEROK_SHIELD_{word}: \"");
            format!(
                "    {when}meta l4proto {WITH_PORTS} {port} != @noted_{s} add @noted_{s} {{ {port} }} {log}\n    \
                 {when}meta l4proto != {WITH_PORTS} {proto} != @noted_proto_{s} add @noted_proto_{s} {{ {proto} }} {log}"
            )
        };
        for (chain, word, end) in [
            ("denied", "DENIED", "goto refuse"),
            ("private", "PRIVATE", "goto refuse"),
        ] {
            writeln!(
                out,
                "\n  chain {chain}_{s} {{\n{}\n    {end}\n  }}",
                note(word, "")
            )?;
        }
        writeln!(
            out,
            "\n  chain allowed_{s} {{\n{}\n    accept\n  }}",
            note("ALLOWED", "ct state new ")
        )?;
        let ask = "log group 100 snaplen 128 prefix \"TEROK_SHIELD_BLOCKED: \" goto refuse";
        writeln!(out, "\n  chain ask_{s} {{")?;
        // One look at the set for each packet: between two, an element may end.
        for (which, key, set) in [("", &port, "seen"), ("!= ", &proto, "seen_proto")] {
            let l4 = format!("meta l4proto {which}{WITH_PORTS}");
            writeln!(out, "    {l4} {key} @{set}_{s} goto refuse")?;
            writeln!(out, "    {l4} add @{set}_{s} {{ {key} }} {ask}")?;
        }
        writeln!(out, "    # No room: counted.")?;
        writeln!(out, "    counter name \"unasked\" goto refuse\n  }}")?;

        writeln!(out, "\n  chain judge_{s} {{")?;
        writeln!(out, "    {a} @deny_{s} goto denied_{s}")?;
        writeln!(out, "    {a} @deny_net_{s} goto denied_{s}")?;
        writeln!(out, "    {port} @deny_port_{s} goto denied_{s}")?;
        writeln!(out, "    {proto} @deny_proto_{s} goto denied_{s}")?;
        writeln!(
            out,
            "    # Answers to connections from outside, and errors about them."
        )?;
        writeln!(out, "    ct direction reply ct state established accept")?;
        writeln!(
            out,
            "    meta l4proto {{ icmp, ipv6-icmp }} ct state related accept"
        )?;
        if !self.without_names {
            writeln!(out, "    # Where questions for names were sent to.")?;
            writeln!(
                out,
                "    {a} {loopback} meta l4proto {{ tcp, udp }} th dport 53 accept"
            )?;
        }
        writeln!(out, "    {a} @gateway_{s} accept")?;
        writeln!(out, "    meta nfproto @open goto allowed_{s}")?;
        writeln!(out, "    {port} @allow_port_{s} goto allowed_{s}")?;
        writeln!(out, "    {proto} @allow_proto_{s} goto allowed_{s}")?;
        writeln!(out, "    {a} @allow_{s} goto allowed_{s}")?;
        writeln!(out, "    {a} @allow_net_{s} goto allowed_{s}")?;
        writeln!(
            out,
            "    # Multicast is the neighbourhood's talk, and nobody's connection."
        )?;
        writeln!(out, "    {a} {multicast} drop")?;
        if !self.ask_private {
            writeln!(out, "    {a} {private} goto private_{s}")?;
        }
        writeln!(
            out,
            "    {a} @named_{s} update @named_{s} {{ {a} }} goto allowed_{s}"
        )?;
        writeln!(out, "    # {protocol}: nobody has decided")?;
        writeln!(out, "    goto ask_{s}\n  }}")
    }
}

/// An `elements = { … }` for a set, or nothing.
fn braces(items: impl Iterator<Item = String>) -> String {
    let list: Vec<_> = items.collect();
    if list.is_empty() {
        String::new()
    } else {
        format!(" elements = {{ {} }};", list.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_stands_before_everything_that_accepts() {
        let text = Rules::default().text();
        let judge = text.split("chain judge_v4 {").nth(1).unwrap();
        let deny = judge.find("@deny_port_v4").unwrap();
        assert!(deny < judge.find("accept").unwrap());
        assert!(deny < judge.find("@allow_v4").unwrap());
    }

    #[test]
    fn elements_stand_in_the_set_of_their_kind() {
        let rules = Rules {
            allowed: vec![
                "203.0.113.0/24".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            ],
            denied_ports: vec![Destination {
                address: "203.0.113.7".parse().unwrap(),
                proto: 6,
                port: 80,
            }],
            ..Rules::default()
        };
        let text = rules.text();
        assert!(text.contains("set allow_net_v4 { type ipv4_addr; flags interval; auto-merge; elements = { 203.0.113.0/24 }; }"));
        assert!(text.contains(
            "set allow_v6 { type ipv6_addr; flags timeout; elements = { 2001:db8::1 }; }"
        ));
        assert!(text.contains("elements = { 203.0.113.7 . 6 . 80 };"));
    }
}
