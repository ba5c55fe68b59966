//! The mirror that packages come from: the one that the building machine's own apt uses, unless
//! `ROS_MIRROR` (and `ROS_SECURITY_MIRROR`) says another. No address is written down anywhere.

use anyhow::{Result, bail};

use super::SUITE;
use crate::command::{command, text};

/// Base addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Of the archive.
    pub main: String,
    /// Of the security archive, when there is one.
    pub security: Option<String>,
}

impl Mirror {
    /// Finds the mirror.
    ///
    /// # Errors
    /// When this machine's apt has none of Debian's and none is given.
    pub fn find() -> Result<Self> {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let sites = text(command("apt-get").args(["indextargets", "--format", "$(SITE)"]))
            .unwrap_or_default();
        let found = Self::among(&sites);
        let main = given("ROS_MIRROR").or(found.as_ref().map(|mirror| mirror.main.clone()));
        let security = given("ROS_SECURITY_MIRROR").or(found.and_then(|mirror| mirror.security));
        match main {
            Some(main) => Ok(Self { main, security }),
            None => bail!(
                "apt on this machine knows no Debian mirror (is it Ubuntu?): \
                 set ROS_MIRROR to the address of one, such as ROS_MIRROR=http://mirror.example/debian"
            ),
        }
    }

    /// The addresses among apt's own.
    fn among(sites: &str) -> Option<Self> {
        let ending = |end: &str| {
            let mut sites = sites.lines().map(|site| site.trim().trim_end_matches('/'));
            sites.find(|site| site.ends_with(end)).map(str::to_owned)
        };
        Some(Self { main: ending("/debian")?, security: ending("/debian-security") })
    }

    /// Lines for apt's list of sources.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let main = &self.main;
        let mut lines =
            vec![format!("deb {main} {SUITE} main"), format!("deb {main} {SUITE}-updates main")];
        lines.extend(self.security.iter().map(|at| format!("deb {at} {SUITE}-security main")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_own_addresses_count() {
        let found =
            Mirror::among("http://m/debian\nhttp://m/debian-security\nhttp://m/debian").unwrap();
        assert_eq!(
            (found.main.as_str(), found.security.as_deref()),
            ("http://m/debian", Some("http://m/debian-security"))
        );
        assert_eq!(found.sources().len(), 3);
        assert_eq!(Mirror::among("http://m/ubuntu\n"), None);
    }
}
