//! Addresses that a tenant must not choose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::ConnectError;

/// Metadata services of clouds that are not link-local: AWS over IPv6, Alibaba, Azure's host.
const METADATA_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Rejects a host if one of its addresses is blocked for tenants.
pub(super) fn check_addresses(host: &str, addresses: &[SocketAddr]) -> Result<(), ConnectError> {
    match addresses.iter().map(SocketAddr::ip).find(|address| is_blocked(*address)) {
        Some(address) => Err(ConnectError::BlockedAddress { host: host.to_owned(), address }),
        None => Ok(()),
    }
}

/// Rejects a host that is not resolved here, if it is `localhost` or a blocked IP address.
pub(super) fn check_unresolved_host(host: &str) -> Result<(), ConnectError> {
    let literal = if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() };
    literal.map_or(Ok(()), |address: IpAddr| check_addresses(host, &[(address, 0).into()]))
}

/// Returns true for loopback, unspecified, link-local, multicast, broadcast and metadata service addresses, in any notation.
/// Private ranges are allowed, because Vault runs there.
fn is_blocked(address: IpAddr) -> bool {
    METADATA_ADDRESSES.contains(&address)
        || match address {
            IpAddr::V4(v4) => is_blocked_v4(v4),
            IpAddr::V6(v6) => is_blocked_v6(v6),
        }
}

fn is_blocked_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 is "this host on this network".
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
}

fn is_blocked_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || embedded_v4(address).is_some_and(|v4| is_blocked(IpAddr::V4(v4)))
}

/// Returns the IPv4 address embedded in a mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64 (`64:ff9b::/96`) or 6to4
/// (`2002::/16`) address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let ([0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..]) =
        address.segments()
    else {
        return None;
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_blocked_text(address: &str) -> bool {
        is_blocked(address.parse().unwrap())
    }

    #[test]
    fn local_and_metadata_addresses_are_blocked() {
        for address in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
        ] {
            assert!(is_blocked_text(address), "{address}");
        }
    }

    #[test]
    fn blocked_ipv4_inside_ipv6_is_blocked() {
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::1",
            "::ffff:100.100.100.200",
        ] {
            assert!(is_blocked_text(address), "{address}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_allowed() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "203.0.113.9",
            "fd12::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(!is_blocked_text(address), "{address}");
        }
    }

    #[test]
    fn host_with_one_blocked_address_is_blocked() {
        let addresses = ["10.0.0.1:8200".parse().unwrap(), "[::1]:8200".parse().unwrap()];
        assert_eq!(
            check_addresses("vault.example", &addresses),
            Err(ConnectError::BlockedAddress { host: "vault.example".into(), address: Ipv6Addr::LOCALHOST.into() })
        );
        assert_eq!(check_addresses("vault.example", &addresses[..1]), Ok(()));
    }
}
