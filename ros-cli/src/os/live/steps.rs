//! What a switch does to which service, and in which order: a pure function of what the services were and are to be.

use std::collections::{BTreeMap, BTreeSet};

use ros_api::ServiceSpec;
use ros_api::service::Swap;
use serde::{Deserialize, Serialize};

use crate::services::container::Service;
use crate::services::plan::Plan;

/// Services by name.
pub type Services = BTreeMap<String, Service>;

/// What is done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// It is new.
    Start,
    /// Stop the old, start the new.
    Restart,
    /// Start the new, stop the old once it is ready.
    Overlap,
    /// The new takes over from the old, which ends with its last session.
    HandOver,
    /// It goes.
    Stop,
    /// The daemon: the new one takes up the containers that run.
    TakeOver,
}

impl Act {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Overlap => "overlap",
            Self::HandOver => "hand-over",
            Self::Stop => "stop",
            Self::TakeOver => "take-over",
        }
    }

    /// How a service is replaced. Both definitions have a say: a restart is what any service bears.
    #[must_use]
    pub fn replacing(old: &ServiceSpec, new: &ServiceSpec) -> Self {
        match (old.ros.swap, new.ros.swap) {
            (Swap::HandOver, Swap::HandOver) => Self::HandOver,
            (Swap::Overlap, Swap::Overlap) => Self::Overlap,
            _ => Self::Restart,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The service.
    pub name: String,
    /// What is done to it.
    pub act: Act,
}

/// The steps, in order: what starts or changes by its dependencies, then what goes, the last started first.
#[must_use]
pub fn steps(old: &Services, new: &Services) -> Vec<Step> {
    let wanted = order(new).into_iter().filter_map(|name| {
        let service = &new[&name];
        let act = match old.get(&name) {
            None => Act::Start,
            Some(old) if old.hash() == service.hash() => return None,
            Some(old) => Act::replacing(&old.spec, &service.spec),
        };
        Some(Step { name, act })
    });
    let gone = order(old).into_iter().rev().filter(|name| !new.contains_key(name));
    wanted.chain(gone.map(|name| Step { name, act: Act::Stop })).collect()
}

/// Services that cannot be tried without a boot: a oneshot has its effect when the machine starts.
#[must_use]
pub fn needs_boot(old: &Services, new: &Services) -> BTreeSet<String> {
    let is_oneshot = |step: &Step| {
        [old, new].iter().any(|all| all.get(&step.name).is_some_and(|s| s.spec.ros.oneshot))
    };
    steps(old, new).into_iter().filter(is_oneshot).map(|step| step.name).collect()
}

fn order(services: &Services) -> Vec<String> {
    let specs = services.iter().map(|(name, service)| (name.clone(), service.spec.clone()));
    Plan::of(&specs.collect()).waves().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, content, `x-ros`.
    fn services(list: &[(&str, &str, &str)]) -> Services {
        list.iter()
            .map(|(name, content, ros)| {
                let service = Service {
                    name: (*name).into(),
                    image: String::new(),
                    content: (*content).into(),
                    spec: serde_yaml::from_str(&format!("x-ros: {ros}")).unwrap(),
                };
                ((*name).to_owned(), service)
            })
            .collect()
    }

    fn said(old: &Services, new: &Services) -> Vec<String> {
        let word = |step: Step| format!("{} {}", step.act.word(), step.name);
        steps(old, new).into_iter().map(word).collect()
    }

    #[test]
    fn what_changed_is_replaced_after_what_it_waits_for() {
        let old = services(&[
            ("console", "1", "{after: [udev], swap: hand-over}"),
            ("acpid", "1", "{swap: overlap}"),
            ("ntp", "1", "{after: [network]}"),
            ("network", "1", "{after: [udev]}"),
            ("udev", "1", "{}"),
            ("gone", "1", "{after: [old]}"),
            ("old", "1", "{}"),
        ]);
        let new = services(&[
            ("console", "2", "{after: [udev], swap: hand-over}"),
            ("acpid", "2", "{swap: overlap}"),
            ("ntp", "2", "{after: [network]}"),
            ("network", "2", "{after: [udev]}"),
            ("udev", "1", "{}"),
            ("fresh", "1", "{after: [ntp]}"),
        ]);
        let expected = [
            "overlap acpid",
            "hand-over console",
            "restart network",
            "restart ntp",
            "start fresh",
            "stop gone",
            "stop old",
        ];
        assert_eq!(said(&old, &new), expected);
        assert!(steps(&new, &new).is_empty());
    }

    #[test]
    fn both_definitions_must_bear_it() {
        let with = |swap: &str, content| services(&[("a", content, &format!("{{swap: {swap}}}"))]);
        for (old, new, expected) in [
            ("hand-over", "hand-over", "hand-over a"),
            ("restart", "hand-over", "restart a"),
            ("overlap", "hand-over", "restart a"),
            ("overlap", "restart", "restart a"),
            ("overlap", "overlap", "overlap a"),
        ] {
            assert_eq!(said(&with(old, "1"), &with(new, "2")), [expected], "{old} {new}");
        }
    }

    #[test]
    fn a_oneshot_needs_a_boot_only_when_it_changes() {
        let all = |content| services(&[("a", content, "{oneshot: true}"), ("b", content, "{}")]);
        assert!(needs_boot(&all("1"), &all("1")).is_empty());
        assert_eq!(needs_boot(&all("1"), &all("2")), BTreeSet::from(["a".to_owned()]));
    }
}
