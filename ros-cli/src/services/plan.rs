//! In which order services start: a pure function from the definitions to a graph.
//!
//! A service waits for every name in its `after`, and for every service that names it in `before`. Names
//! that are not there are ignored. A cycle never stops a boot: the edge that closes it is dropped, the same
//! one every time, and a warning says which.
//!
//! Invariant: the graph in a [`Plan`] has no cycle, and every name in it is one of the services given.

use std::collections::{BTreeMap, BTreeSet};

use ros_api::ServiceSpec;

/// The order in which services start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    waits: BTreeMap<String, BTreeSet<String>>,
    /// What was wrong with the definitions, for people.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The plan of `services`.
    #[must_use]
    pub fn of(services: &BTreeMap<String, ServiceSpec>) -> Self {
        let mut plan = Self { waits: edges(services), warnings: Vec::new() };
        while let Some(cycle) = find_cycle(&plan.waits) {
            plan.cut(&cycle);
        }
        plan
    }

    /// What `name` waits for.
    pub fn waits_for(&self, name: &str) -> impl Iterator<Item = &str> {
        self.waits.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Those that may start now: not started, and all that they wait for is settled.
    #[must_use]
    pub fn startable(&self, started: &BTreeSet<String>, settled: &BTreeSet<String>) -> Vec<String> {
        self.waits
            .iter()
            .filter(|(name, waits)| !started.contains(*name) && waits.is_subset(settled))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// All that `name` waits for, directly or through others.
    #[must_use]
    pub fn all_waits(&self, name: &str) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&str> = self.waits_for(name).collect();
        while let Some(one) = open.pop() {
            if all.insert(one) {
                open.extend(self.waits_for(one));
            }
        }
        all
    }

    /// Those that `first` comes before and `second` does not need: they can wait for what comes after both.
    #[must_use]
    pub fn between(&self, first: &str, second: &str) -> Vec<String> {
        let needed = self.all_waits(second);
        let others = self.waits.keys().map(String::as_str);
        let others = others.filter(|name| *name != second && !needed.contains(name));
        others.filter(|name| self.all_waits(name).contains(first)).map(str::to_owned).collect()
    }

    /// The services in waves: each waits only for services of earlier waves.
    #[must_use]
    pub fn waves(&self) -> Vec<Vec<String>> {
        let mut done = BTreeSet::new();
        let mut waves = Vec::new();
        while done.len() < self.waits.len() {
            let wave = self.startable(&done, &done);
            done.extend(wave.iter().cloned());
            waves.push(wave);
        }
        waves
    }

    /// Drops the edge that closes `cycle` (`[a, b, c]`: a waits for b, b for c, c for a).
    fn cut(&mut self, cycle: &[String]) {
        let (Some(first), Some(last)) = (cycle.first(), cycle.last()) else { return };
        if let Some(waits) = self.waits.get_mut(last) {
            waits.remove(first);
        }
        let path = cycle.join(" after ");
        self.warnings
            .push(format!("{path} after {first} is a cycle: {last} does not wait for {first}"));
    }
}

fn edges(services: &BTreeMap<String, ServiceSpec>) -> BTreeMap<String, BTreeSet<String>> {
    let mut waits: BTreeMap<String, BTreeSet<String>> =
        services.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
    let mut add = |waiter: &String, on: &String| {
        if services.contains_key(on)
            && let Some(waits) = waits.get_mut(waiter)
        {
            waits.insert(on.clone());
        }
    };
    for (name, spec) in services {
        spec.ros.after.iter().for_each(|on| add(name, on));
        spec.ros.before.iter().for_each(|waiter| add(waiter, name));
    }
    waits
}

/// A cycle, found depth first in name order.
fn find_cycle(waits: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut clean = BTreeSet::new();
    waits.keys().find_map(|name| cycle_from(name, waits, &mut Vec::new(), &mut clean))
}

fn cycle_from<'a>(
    name: &'a String,
    waits: &'a BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<&'a String>,
    clean: &mut BTreeSet<&'a String>,
) -> Option<Vec<String>> {
    if let Some(at) = path.iter().position(|seen| *seen == name) {
        return Some(path[at..].iter().map(|name| (*name).clone()).collect());
    }
    if clean.contains(name) {
        return None;
    }
    path.push(name);
    let found = waits.get(name)?.iter().find_map(|next| cycle_from(next, waits, path, clean));
    path.pop();
    clean.insert(name);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service, what it starts after, and before what.
    type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

    fn services(list: &[Row]) -> BTreeMap<String, ServiceSpec> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        list.iter()
            .map(|(name, after, before)| {
                let mut spec = ServiceSpec::default();
                spec.ros.after = owned(after);
                spec.ros.before = owned(before);
                ((*name).to_owned(), spec)
            })
            .collect()
    }

    #[test]
    fn waves_follow_after_and_before() {
        let table: &[(&[Row], &[&[&str]])] = &[
            (&[], &[]),
            (&[("b", &[], &[]), ("a", &[], &[])], &[&["a", "b"]]),
            (&[("a", &["b"], &[]), ("b", &["c"], &[]), ("c", &[], &[])], &[&["c"], &["b"], &["a"]]),
            (&[("a", &[], &["b"]), ("b", &[], &[])], &[&["a"], &["b"]]),
            (&[("a", &["not-there"], &["nor-this"])], &[&["a"]]),
            (
                &[
                    ("acpid", &[], &[]),
                    ("cloud-init", &["udev"], &["network"]),
                    ("console", &["cloud-init"], &[]),
                    ("network", &["udev"], &[]),
                    ("ntp", &["network"], &[]),
                    ("udev", &[], &[]),
                ],
                &[&["acpid", "udev"], &["cloud-init"], &["console", "network"], &["ntp"]],
            ),
        ];
        for (input, waves) in table {
            assert_eq!(Plan::of(&services(input)).waves(), *waves, "{input:?}");
        }
    }

    #[test]
    fn who_can_wait_for_what_comes_over_the_network() {
        let plan = Plan::of(&services(&[
            ("cloud-init", &["udev"], &["network"]),
            ("console", &["cloud-init"], &[]),
            ("docker", &["console"], &[]),
            ("network", &["udev"], &[]),
            ("ntp", &["network"], &[]),
            ("syslog", &[], &[]),
            ("udev", &[], &[]),
        ]));
        assert_eq!(plan.all_waits("docker"), BTreeSet::from(["cloud-init", "console", "udev"]));
        assert_eq!(plan.between("cloud-init", "network"), ["console", "docker", "ntp"]);
    }

    #[test]
    fn a_cycle_is_cut_with_a_warning() {
        let plan = Plan::of(&services(&[
            ("a", &["c"], &[]),
            ("b", &["a"], &[]),
            ("c", &["b"], &[]),
            ("d", &["d"], &[]),
        ]));
        assert_eq!(
            plan.warnings,
            [
                "a after c after b after a is a cycle: b does not wait for a",
                "d after d is a cycle: d does not wait for d"
            ]
        );
        assert_eq!(plan.waves(), [vec!["b", "d"], vec!["c"], vec!["a"]]);
    }

    #[test]
    fn what_is_not_settled_is_waited_for() {
        let plan = Plan::of(&services(&[("a", &[], &[]), ("b", &["a"], &[])]));
        let a = BTreeSet::from(["a".to_owned()]);
        assert!(plan.startable(&a, &BTreeSet::new()).is_empty(), "a was started and is not ready");
        assert_eq!(plan.startable(&a, &a), ["b"]);
    }

    /// Any graph: every service is in exactly one wave, and after all that it still waits for.
    #[test]
    fn every_service_starts_once_and_after_what_it_waits_for() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..2_000 {
            let count = 1 + random(9);
            let mut specs = BTreeMap::new();
            for name in 0..count {
                let mut spec = ServiceSpec::default();
                for _ in 0..random(4) {
                    spec.ros.after.push(random(count + 1).to_string());
                }
                for _ in 0..random(2) {
                    spec.ros.before.push(random(count + 1).to_string());
                }
                specs.insert(name.to_string(), spec);
            }
            let plan = Plan::of(&specs);
            assert_eq!(plan, Plan::of(&specs), "the same every time");
            let mut done = BTreeSet::new();
            for wave in plan.waves() {
                for name in &wave {
                    assert!(plan.waits_for(name).all(|on| done.contains(on)), "{specs:?}");
                }
                for name in wave {
                    assert!(done.insert(name), "started twice");
                }
            }
            assert_eq!(done.len(), specs.len());
            let edges: usize = edges(&specs).values().map(BTreeSet::len).sum();
            let kept: usize = plan.waits.values().map(BTreeSet::len).sum();
            assert_eq!(
                edges - kept,
                plan.warnings.len(),
                "one warning for each edge dropped, no other is lost"
            );
        }
    }
}
