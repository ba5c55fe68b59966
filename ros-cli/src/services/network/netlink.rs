//! Does the steps of [`super::links`] by rtnetlink(7).

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use cloud_config::settings::Bridge;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{BondLacpRate, BondMode, BondXmitHashPolicy, BridgeStpState};
use rtnetlink::{
    Handle, LinkBond, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVlan, new_connection,
};

use super::links::Step;

/// Does `steps`; what failed is answered, and the others are done all the same.
pub async fn carry_out(steps: &[Step]) -> Vec<String> {
    if steps.is_empty() {
        return Vec::new();
    }
    let (connection, handle, _) = match new_connection() {
        Ok(opened) => opened,
        Err(error) => return vec![format!("netlink: {error}")],
    };
    let task = tokio::spawn(connection);
    let mut wrong = Vec::new();
    for step in steps {
        if let Err(error) = carry_out_one(&handle, step, &mut wrong).await {
            wrong.push(format!("{}: {error:#}", subject(step)));
        }
    }
    task.abort();
    wrong
}

fn subject(step: &Step) -> String {
    match step {
        Step::Gone { name } => format!("take {name} away"),
        Step::Bond { name, .. } => format!("bond {name}"),
        Step::Bridge { name, .. } => format!("bridge {name}"),
        Step::Vlan { name, parent, id } => format!("VLAN {name} ({id} on {parent})"),
        Step::Join { part, whole, .. } => format!("{part} into {whole}"),
        Step::Mac { name, .. } => format!("hardware address of {name}"),
        Step::Up { name } => format!("{name} up"),
    }
}

async fn carry_out_one(handle: &Handle, step: &Step, wrong: &mut Vec<String>) -> Result<()> {
    match step {
        Step::Gone { name } => gone(handle, name).await,
        Step::Bond { name, options } => {
            gone(handle, name).await?;
            let (message, unknown) = bond(name, options);
            wrong.extend(unknown.into_iter().map(|why| format!("bond {name}: {why}")));
            Ok(handle.link().add(message.build()).execute().await?)
        }
        Step::Bridge { name, options } => {
            gone(handle, name).await?;
            Ok(handle.link().add(bridge(name, options).build()).execute().await?)
        }
        Step::Vlan { name, parent, id } => {
            gone(handle, name).await?;
            let message = LinkVlan::new(name, index(parent)?, *id).build();
            Ok(handle.link().add(message).execute().await?)
        }
        Step::Join { part, whole, down } => {
            if *down {
                let message = LinkUnspec::new_with_name(part).down().build();
                handle.link().set(message).execute().await?;
            }
            let message = LinkUnspec::new_with_name(part).controller(index(whole)?).build();
            Ok(handle.link().set(message).execute().await?)
        }
        Step::Mac { name, mac } => {
            let message = LinkUnspec::new_with_name(name).address(mac.to_vec()).build();
            Ok(handle.link().set(message).execute().await?)
        }
        Step::Up { name } => {
            let message = LinkUnspec::new_with_name(name).up().build();
            Ok(handle.link().set(message).execute().await?)
        }
    }
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("find {name}"))
}

/// A link that an earlier start made is made anew: its options may be others now.
async fn gone(handle: &Handle, name: &str) -> Result<()> {
    match if_nametoindex(name) {
        Ok(index) => Ok(handle.link().del(index).execute().await?),
        Err(_) => Ok(()),
    }
}

fn bridge(name: &str, options: &Bridge) -> LinkMessageBuilder<LinkBridge> {
    let stp = if options.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    // The kernel counts in hundredths of a second (USER_HZ).
    LinkBridge::new(name)
        .stp_state(stp)
        .forward_delay(options.forward_delay * 100)
        .vlan_filtering(options.vlan_filtering)
}

/// The message, and options that are not understood.
fn bond(name: &str, options: &[(String, String)]) -> (LinkMessageBuilder<LinkBond>, Vec<String>) {
    let mut message = LinkBond::new(name);
    let mut unknown = Vec::new();
    // The mode decides which others the kernel takes.
    let ordered = options
        .iter()
        .filter(|(key, _)| key == "mode")
        .chain(options.iter().filter(|(key, _)| key != "mode"));
    for (key, value) in ordered {
        message = match option(message, key, value) {
            Ok(message) => message,
            Err((message, why)) => {
                unknown.push(format!("{key}: {value:?}: {why}"));
                message
            }
        };
    }
    (message, unknown)
}

type Message = LinkMessageBuilder<LinkBond>;

fn option(message: Message, key: &str, value: &str) -> Result<Message, (Message, anyhow::Error)> {
    macro_rules! number {
        ($set:ident) => {
            match value.parse() {
                Ok(number) => Ok(message.$set(number)),
                Err(_) => Err((message, anyhow!("expected a number"))),
            }
        };
    }
    macro_rules! word {
        ($set:ident, $found:expr) => {
            match $found {
                Some(found) => Ok(message.$set(found)),
                None => Err((message, anyhow!("not one of the kernel's words"))),
            }
        };
    }
    match key {
        "mode" => word!(mode, mode(value)),
        "miimon" => number!(miimon),
        "updelay" => number!(updelay),
        "downdelay" => number!(downdelay),
        "min_links" => number!(min_links),
        "arp_interval" => number!(arp_interval),
        "resend_igmp" => number!(resend_igmp),
        "lp_interval" => number!(lp_interval),
        "packets_per_slave" => number!(packets_per_port),
        "lacp_rate" => word!(
            ad_lacp_rate,
            match value {
                "slow" | "0" => Some(BondLacpRate::Slow),
                "fast" | "1" => Some(BondLacpRate::Fast),
                _ => None,
            }
        ),
        "xmit_hash_policy" => word!(
            xmit_hash_policy,
            match value {
                "layer2" | "0" => Some(BondXmitHashPolicy::Layer2),
                "layer3+4" | "1" => Some(BondXmitHashPolicy::Layer34),
                "layer2+3" | "2" => Some(BondXmitHashPolicy::Layer23),
                "encap2+3" | "3" => Some(BondXmitHashPolicy::Encap23),
                "encap3+4" | "4" => Some(BondXmitHashPolicy::Encap34),
                "vlan+srcmac" | "5" => Some(BondXmitHashPolicy::VlanSrcMac),
                _ => None,
            }
        ),
        "arp_ip_target" => {
            let targets: Option<Vec<Ipv4Addr>> =
                value.split(',').map(|text| text.trim().parse().ok()).collect();
            word!(arp_ip_target, targets)
        }
        _ => Err((message, anyhow!("ros does not set this option"))),
    }
}

/// By name or number, as in Linux's bonding.rst.
fn mode(value: &str) -> Option<BondMode> {
    Some(match value {
        "balance-rr" | "0" => BondMode::BalanceRr,
        "active-backup" | "1" => BondMode::ActiveBackup,
        "balance-xor" | "2" => BondMode::BalanceXor,
        "broadcast" | "3" => BondMode::Broadcast,
        "802.3ad" | "4" => BondMode::Ieee8023Ad,
        "balance-tlb" | "5" => BondMode::BalanceTlb,
        "balance-alb" | "6" => BondMode::BalanceAlb,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_understood_are_said() {
        let options = [
            ("miimon", "100"),
            ("mode", "802.3ad"),
            ("lacp_rate", "fast"),
            ("mode", "x"),
            ("primary", "eth0"),
            ("updelay", "y"),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(bond("b", &options).1.len(), 3);
    }

    /// In a network namespace of its own; where the kernel gives none there is nothing to see.
    #[test]
    fn the_kernel_makes_what_is_asked() {
        let seen = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return None;
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Some(runtime.block_on(async {
                let steps = [
                    Step::Bridge {
                        name: "br0".into(),
                        options: Bridge { stp: true, ..Bridge::default() },
                    },
                    Step::Mac { name: "br0".into(), mac: [2, 0, 0, 0, 0, 7] },
                    Step::Up { name: "br0".into() },
                    Step::Vlan { name: "br0.9".into(), parent: "br0".into(), id: 9 },
                    Step::Up { name: "missing".into() },
                ];
                let mut wrong = carry_out(&steps).await;
                wrong.extend(carry_out(&steps[..1]).await);
                (wrong, index("br0").is_ok())
            }))
        });
        let Some((wrong, bridge)) = seen.join().unwrap() else { return };
        let unsupported = wrong
            .iter()
            .filter(|why| why.contains("not supported") || why.contains("not permitted"))
            .count();
        if unsupported == 0 {
            assert!(bridge && wrong.len() == 1 && wrong[0].starts_with("missing up"), "{wrong:?}");
        }
    }
}
