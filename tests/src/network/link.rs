//! Two halves of a network in namespaces of this machine, so that the link between them can be cut.
//!
//! One half is in this machine's own namespace, the other in one made for it. Two pairs of virtual interfaces join them: one
//! for peers, which is cut, and one for interfaces, over which this program (and our own nodes among each other) goes on.

use super::Place;
use eyre::WrapErr;
use std::{net::Ipv4Addr, process::Command};

/// The namespace and its links; both go with this.
#[derive(Debug)]
pub struct Link {
    name: String,
}

impl Link {
    /// Makes the namespace and its links. Needs root.
    ///
    /// # Errors
    /// When `ip` is missing or refuses.
    pub fn create() -> eyre::Result<Self> {
        // Interfaces have at most 15 characters.
        let link = Self { name: format!("lcai{}", std::process::id()) };
        let Self { name } = &link;
        ip(&format!("netns add {name}"))?;
        for (kind, subnet) in [("p", PEERS), ("a", API)] {
            let [here, there] = [address(subnet, 1), address(subnet, 2)];
            ip(&format!("link add {name}{kind} type veth peer name {kind}0 netns {name}"))?;
            ip(&format!("addr add {here}/30 dev {name}{kind}"))?;
            ip(&format!("link set {name}{kind} up"))?;
            ip(&format!("-n {name} addr add {there}/30 dev {kind}0"))?;
            ip(&format!("-n {name} link set {kind}0 up"))?;
        }
        ip(&format!("-n {name} link set lo up"))?;
        Ok(link)
    }

    /// Where the halves' nodes are: the dispatcher's, the disputer's, the stranger's.
    pub fn places(&self) -> [Place; 3] {
        let here = Place { api: address(API, 1), peers: address(PEERS, 1), namespace: None };
        let there =
            Place { api: address(API, 2), peers: address(PEERS, 2), namespace: Some(self.name.clone()) };
        [here.clone(), there, here]
    }

    /// Cuts the halves' peers off from each other.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn down(&self) -> eyre::Result<()> {
        ip(&format!("link set {}p down", self.name))
    }

    /// Joins them again.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn up(&self) -> eyre::Result<()> {
        ip(&format!("link set {}p up", self.name))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The interfaces go with it.
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

/// Third bytes of the subnets 10.213.x.0/30.
const PEERS: u8 = 1;
const API: u8 = 2;

const fn address(subnet: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, subnet, host)
}

fn ip(arguments: &str) -> eyre::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().wrap_err("ip (iproute2)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    eyre::ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
    Ok(())
}
