//! The nftables rule set of one router.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::home::{Nat, Sequence, Unsolicited};

/// The rules of a router between devices `lan` and `wan`, for a namespace that has none yet. They never
/// flush: rules that end up in a wrong place must not take others away.
pub(super) fn ruleset(nat: Nat, wan: Ipv4Addr, policy: Unsolicited, sequence: Sequence) -> String {
    let kernel = nat.translates() && !matches!(nat, Nat::User(_));
    let translation = if kernel { translation(nat, wan, sequence) } else { String::new() };
    translation + &filter(nat, policy)
}

fn translation(nat: Nat, wan: Ipv4Addr, sequence: Sequence) -> String {
    let (mut state, mut inward, mut outward, mut record) = Default::default();
    for proto in ["tcp", "udp"] {
        match nat {
            Nat::None | Nat::Firewall | Nat::User(_) => {}
            Nat::PortPreserving => {
                line(&mut outward, &format!("oifname wan meta l4proto {proto} masquerade"))
            }
            Nat::SymmetricRandom => {
                let rule = format!("oifname wan meta l4proto {proto} masquerade to :1024-65535 fully-random");
                line(&mut outward, &rule);
            }
            Nat::SymmetricSequential => line(&mut outward, &sequential(proto, wan, sequence)),
            Nat::FullCone | Nat::AddressRestricted | Nat::EimRandom => {
                independent(nat, proto, wan, [&mut state, &mut inward, &mut outward, &mut record]);
            }
        }
    }
    format!(
        "table ip translation {{\n{state}\
         chain inward {{ type nat hook prerouting priority dstnat\n{inward}}}\n\
         chain outward {{ type nat hook postrouting priority srcnat\n{outward}oifname wan masquerade\n}}\n\
         chain record {{ type filter hook postrouting priority 310\n{record}}}\n}}\n"
    )
}

/// A rule of each sort that the kernel has to know. The rule sets themselves are not used here: a mistake in those has
/// to fail a test, not to skip it.
pub(super) const PROBE: &str = "table ip probe {
map ports { type ipv4_addr . inet_service : inet_service; flags dynamic,timeout; timeout 1h; size 64; }
chain outward { type nat hook postrouting priority srcnat
meta l4proto tcp snat ip to 192.0.2.1 : numgen inc mod 2 map { 0 : 4000, 1 : 4001 }
masquerade fully-random
}
chain inward { type nat hook prerouting priority dstnat; }
chain record { type filter hook postrouting priority 310
meta l4proto tcp ct state new update @ports { ct original ip saddr . ct original proto-src : ct reply proto-dst }
}
chain input { type filter hook input priority filter
meta l4proto tcp reject with tcp reset
reject with icmp type host-unreachable
}
}
";

/// Makes the rules of an endpoint-independent mapping. The kernel's own NAT is per connection. So the external port of
/// an inside endpoint is recorded in `outer` (after the NAT has decided, at priority 310) and given to its later
/// connections. `inner` is the way back, `known` the contacted remote ends.
fn independent(nat: Nat, proto: &str, wan: Ipv4Addr, [state, inward, outward, record]: [&mut String; 4]) {
    let flags = "flags dynamic,timeout; timeout 1h; size 65535;";
    let inside = "ct original ip saddr . ct original proto-src";
    line(state, &format!("map outer_{proto} {{ type ipv4_addr . inet_service : inet_service; {flags} }}"));
    let ports = if nat == Nat::EimRandom { " to :32768-60999 random" } else { "" };
    line(
        outward,
        &format!(
            "oifname wan meta l4proto {proto} snat ip to {wan} : ip saddr . {proto} sport map @outer_{proto}"
        ),
    );
    line(outward, &format!("oifname wan meta l4proto {proto} masquerade{ports}"));
    let fresh = format!("oifname wan ct state new meta l4proto {proto} update");
    line(record, &format!("{fresh} @outer_{proto} {{ {inside} : ct reply proto-dst }}"));
    if nat == Nat::EimRandom {
        return;
    }
    line(state, &format!("map inner_{proto} {{ type inet_service : ipv4_addr . inet_service; {flags} }}"));
    line(record, &format!("{fresh} @inner_{proto} {{ ct reply proto-dst : {inside} }}"));
    let mut from = String::new();
    if nat == Nat::AddressRestricted {
        line(state, &format!("set known_{proto} {{ type ipv4_addr . inet_service; {flags} }}"));
        line(record, &format!("{fresh} @known_{proto} {{ ct original ip daddr . ct reply proto-dst }}"));
        from = format!("ip saddr . {proto} dport @known_{proto} ");
    }
    line(
        inward,
        &format!("iifname wan meta l4proto {proto} {from}dnat ip to {proto} dport map @inner_{proto}"),
    );
}

/// Makes the rule of a sequential NAT. It goes through a map: `numgen ... offset` used as a port directly is
/// byte-swapped on little-endian machines and would count in steps of 256.
fn sequential(proto: &str, wan: Ipv4Addr, Sequence { first, step, count }: Sequence) -> String {
    let ports = (0..count).map(|i| format!("{i} : {}", u32::from(first) + u32::from(i) * u32::from(step)));
    let ports: Vec<_> = ports.collect();
    let ports = ports.join(", ");
    format!("oifname wan meta l4proto {proto} snat ip to {wan} : numgen inc mod {count} map {{ {ports} }}")
}

/// Makes the rules for incoming packets. Only TCP gets other answers than ICMP's, so with `rst` a stranger's datagram
/// is dropped.
fn filter(nat: Nat, policy: Unsolicited) -> String {
    let verdict = match policy {
        Unsolicited::Drop => "drop",
        Unsolicited::Rst => "meta l4proto tcp reject with tcp reset\ndrop",
        Unsolicited::IcmpPort => "reject with icmp type port-unreachable",
        Unsolicited::IcmpHost => "reject with icmp type host-unreachable",
        Unsolicited::IcmpAdmin => "reject with icmp type admin-prohibited",
        Unsolicited::Local => "accept",
    };
    let forward = match nat {
        // What a NAT in userspace does not let in does not come as far.
        Nat::None | Nat::User(_) => "accept",
        Nat::Firewall => verdict,
        _ => "drop",
    };
    let known = "iifname != \"wan\" accept\nct state established,related accept";
    format!(
        "table inet filtering {{\n\
         chain input {{ type filter hook input priority filter\n{known}\nicmp type echo-request accept\n{verdict}\n}}\n\
         chain forward {{ type filter hook forward priority filter\n{known}\nct status dnat accept\n{forward}\n}}\n}}\n"
    )
}

fn line(text: &mut String, rule: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{rule}");
}
