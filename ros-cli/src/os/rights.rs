//! What a service may do, compared: a pure function of two definitions. What is gained is for people to see before they
//! say yes.

use std::collections::BTreeSet;

use ros_api::ServiceSpec;

use super::live::steps::Services;

/// Every right that a definition asks for, in words.
fn rights(spec: &ServiceSpec) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut add = |kind: &str, items: &[String]| {
        all.extend(items.iter().map(|item| format!("{kind} {item}")));
    };
    add("capability", &spec.cap_add);
    add("device", &spec.devices);
    add("devices", &spec.device_cgroup_rules);
    add("mount", &spec.volumes);
    add("security", &spec.security_opt);
    let namespaces = [
        ("network", &spec.network_mode),
        ("processes", &spec.pid),
        ("ipc", &spec.ipc),
        ("host name", &spec.uts),
        ("cgroups", &spec.cgroup),
    ];
    for (what, of) in namespaces {
        if of.as_deref() == Some("host") {
            all.insert(format!("the host's {what}"));
        }
    }
    for (is, what) in [(spec.privileged, "privileged"), (!spec.read_only, "writes its own root")] {
        if is {
            all.insert(what.to_owned());
        }
    }
    all
}

/// What each service gains (`+`) and gives up (`-`) from `old` to `new`: `ntp + capability SYS_TIME`.
#[must_use]
pub fn changes(old: &Services, new: &Services) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of = |all: &Services, name: &String| {
        all.get(name).map(|service| rights(&service.spec)).unwrap_or_default()
    };
    let mut lines = Vec::new();
    for name in names {
        let (before, after) = (of(old, name), of(new, name));
        lines.extend(after.difference(&before).map(|right| format!("{name} + {right}")));
        lines.extend(before.difference(&after).map(|right| format!("{name} - {right}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::container::Service;

    fn services(list: &[(&str, &str)]) -> Services {
        list.iter()
            .map(|(name, yaml)| {
                let spec = serde_yaml::from_str(yaml).unwrap();
                let (image, content) = (String::new(), String::new());
                ((*name).to_owned(), Service { name: (*name).into(), image, content, spec })
            })
            .collect()
    }

    #[test]
    fn what_is_gained_and_given_up_is_named() {
        let old = services(&[
            ("a", "{cap_add: [SYS_TIME], read_only: true}"),
            ("gone", "{pid: host, read_only: true}"),
        ]);
        let new = services(&[
            ("a", "{cap_add: [SYS_ADMIN], volumes: ['/:/host'], network_mode: host}"),
            ("fresh", "{privileged: true, read_only: true}"),
        ]);
        let expected = [
            "a + capability SYS_ADMIN",
            "a + mount /:/host",
            "a + the host's network",
            "a + writes its own root",
            "a - capability SYS_TIME",
            "fresh + privileged",
            "gone - the host's processes",
        ];
        assert_eq!(changes(&old, &new), expected);
        assert!(changes(&old, &old).is_empty());
    }
}
