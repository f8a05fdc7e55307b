//! The resources of the cluster as Pacemaker is told them: a target, its LUN and the address that moves, in one group.

use std::fmt::Write;

use super::AddressOrder;
use super::cluster::TARGET;
use crate::network::Network;
use crate::network::lan::LAN_DEVICE;

/// The group's members.
pub(super) const NAMES: [&str; 3] = ["target", "lun", "address"];

/// Between two monitors of a resource: what the agents themselves suggest.
const MONITOR: &str = "10s";

/// The longest that an agent suggests for one of its actions.
const TIMEOUT: &str = "20s";

/// The `resources` section of the cluster's configuration.
pub(super) fn file(order: AddressOrder) -> String {
    let address = Network::moving_portal().ip().to_string();
    let target = primitive(
        "target",
        "iSCSITarget",
        // Without it nobody is let in.
        &[("implementation", "tgt"), ("iqn", TARGET), ("tid", "1"), ("allowed_initiators", "ALL")],
    );
    let lun = primitive(
        "lun",
        "iSCSILogicalUnit",
        &[("implementation", "tgt"), ("target_iqn", TARGET), ("lun", "1"), ("path", "/run/shared/lun.disk")],
    );
    let address = primitive("address", "IPaddr2", &[("ip", &address), ("cidr_netmask", "24"), ("nic", LAN_DEVICE)]);
    let members = match order {
        AddressOrder::Last => [target, lun, address],
        AddressOrder::First => [address, target, lun],
    };
    format!("<resources><group id=\"storage\">\n{}</group></resources>\n", members.concat())
}

fn primitive(name: &str, agent: &str, attributes: &[(&str, &str)]) -> String {
    let mut text = format!("<primitive id=\"{name}\" class=\"ocf\" provider=\"heartbeat\" type=\"{agent}\">\n");
    let mut pairs = String::new();
    for (key, value) in attributes {
        // PANIC: writing to a String cannot fail.
        writeln!(pairs, "<nvpair id=\"{name}-{key}\" name=\"{key}\" value=\"{value}\"/>").expect("a String");
    }
    text += &format!("<instance_attributes id=\"{name}-attributes\">\n{pairs}</instance_attributes>\n");
    let monitor = format!("name=\"monitor\" interval=\"{MONITOR}\" timeout=\"{TIMEOUT}\"");
    text += &format!("<operations><op id=\"{name}-monitor\" {monitor}/></operations>\n");
    text + "</primitive>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_where_it_is_wished_in_the_group() {
        let at = |text: &str, name: &str| text.find(&format!("primitive id=\"{name}\"")).expect("a member");
        let (last, first) = (file(AddressOrder::Last), file(AddressOrder::First));
        assert!(at(&last, "target") < at(&last, "lun") && at(&last, "lun") < at(&last, "address"));
        assert!(at(&first, "address") < at(&first, "target") && at(&first, "target") < at(&first, "lun"));
    }
}
