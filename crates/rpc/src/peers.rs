//! How many connections each address has.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// Connections by address. Addresses of this machine are not counted: a proxy before the node has those of everybody.
#[derive(Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// A connection's place, until it is dropped.
pub(crate) struct Place {
    address: IpAddr,
    peers: Peers,
}

impl Peers {
    /// Takes a place, if the address has fewer than `most`.
    pub(crate) fn take(&self, address: IpAddr, most: u32) -> Option<Place> {
        let address = owner(address);
        if !address.is_loopback() {
            let mut peers = self.0.lock();
            let count = peers.entry(address).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        Some(Place { address, peers: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.0.lock();
        if let Some(count) = peers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

/// One IPv6 subscriber has a /64 of addresses.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_number_and_gets_places_back() {
        let peers = Peers::default();
        let take = |address: &str| peers.take(address.parse().unwrap(), 2);
        let (one, two) = (take("192.0.2.1"), take("192.0.2.1"));
        assert!(one.is_some() && two.is_some() && take("192.0.2.1").is_none());
        assert!(take("::ffff:192.0.2.1").is_none(), "the same address");
        let other = take("192.0.2.2");
        assert!(other.is_some());
        drop(one);
        assert!(take("192.0.2.1").is_some());
        let v6 = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(v6.0.is_some() && v6.1.is_some() && take("2001:db8::3").is_none(), "one subscriber");
        assert!(take("2001:db8:0:1::3").is_some());
        let local: Vec<_> = (0..9).map(|_| (take("127.0.0.1"), take("::1"))).collect();
        assert!(local.iter().all(|(v4, v6)| v4.is_some() && v6.is_some()), "a proxy's");
        drop((two, other, v6, local));
        assert!(peers.0.lock().is_empty(), "nothing is left of those that are gone");
    }
}
