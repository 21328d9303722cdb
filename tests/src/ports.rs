//! Ports for programs that are told where to listen before they start.

use parking_lot::Mutex;
use rand::Rng;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
};

/// Below are ports that well-known services have.
const LOWEST: u16 = 10_000;

/// Where Linux takes the ports of outgoing connections from, if it does not say otherwise.
const LINUX_EPHEMERAL: u16 = 32_768;

/// How many ports are tried for each that is wanted.
const ATTEMPTS: usize = 1_000;

/// Ports that this process has given, so that two programs that are still to start do not get the same.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports that were free a moment ago, for TCP and UDP on 127.0.0.1.
///
/// None is of the range that outgoing connections get their ports from: one of those would keep a program that starts
/// seconds later, or again, from listening, and Prysm goes on without its gRPC then.
///
/// # Errors
/// When there are none.
pub fn free_ports<const N: usize>() -> eyre::Result<[u16; N]> {
    let range = range();
    let mut given = GIVEN.lock();
    let mut ports = [0; N];
    for port in &mut ports {
        *port = (0..ATTEMPTS)
            .map(|_| rand::thread_rng().gen_range(range.clone()))
            .find(|port| !given.contains(port) && is_free(*port))
            .ok_or_else(|| eyre::eyre!("no port from {} to {} is free", range.start, range.end - 1))?;
        given.insert(*port);
    }
    Ok(ports)
}

/// One of them, with its address.
///
/// # Errors
/// As [`free_ports`].
pub fn free_address() -> eyre::Result<SocketAddr> {
    let [port] = free_ports()?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

fn range() -> Range<u16> {
    outside_ephemeral(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok())
}

/// The ports below the range of outgoing connections, or, where these begin too low, what Linux has by default.
fn outside_ephemeral(local_port_range: Option<String>) -> Range<u16> {
    let first = local_port_range.and_then(|text| text.split_whitespace().next()?.parse().ok());
    LOWEST..first.filter(|first| *first > LOWEST + 1_000).unwrap_or(LINUX_EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once_and_from_the_range() {
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            let ports: [u16; 4] = free_ports().unwrap();
            assert!(ports.iter().all(|port| range().contains(port) && seen.insert(*port)), "{ports:?}");
        }
    }

    #[test]
    fn a_port_that_is_held_is_not_free() {
        let [port] = free_ports().unwrap();
        assert!(is_free(port));
        let _held = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
    }

    #[test]
    fn the_range_follows_the_kernel() {
        assert_eq!(outside_ephemeral(Some("20000\t60999\n".to_owned())), LOWEST..20_000);
        for unusable in [None, Some("1024 65535".to_owned()), Some("nothing".to_owned())] {
            assert_eq!(outside_ephemeral(unusable), LOWEST..LINUX_EPHEMERAL);
        }
    }
}
