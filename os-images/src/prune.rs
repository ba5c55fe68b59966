//! What no image needs of Debian's packages: documentation, other init systems, package management, and
//! what belongs to programs that are not there.

use crate::glob::matches;

/// Paths that are left out of every image.
const ALWAYS: &[&str] = &[
    "boot",
    "etc/alternatives",
    "etc/apparmor.d",
    "etc/apt",
    "etc/cron*",
    "etc/default",
    "etc/dhcp",
    "etc/dpkg",
    "etc/init.d",
    "etc/logrotate.d",
    "etc/network/if-*",
    "etc/ppp",
    "etc/runit",
    "etc/sv",
    "etc/ufw",
    "etc/update-motd.d",
    "usr/games",
    "usr/include",
    "usr/lib/NetworkManager",
    "usr/lib/dpkg",
    "usr/lib/init",
    "usr/lib/mime",
    "usr/lib/modules-load.d",
    "usr/lib/networkd-dispatcher",
    "usr/lib/pcrlock.d",
    "usr/lib/systemd/system",
    "usr/lib/systemd/system-generators",
    "usr/lib/systemd/user",
    "usr/lib/sysusers.d",
    "usr/lib/tmpfiles.d",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl*",
    "usr/share/apport",
    "usr/share/base-files",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/debconf",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/fish",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/pam-configs",
    "usr/share/perl*",
    "usr/share/pixmaps",
    "usr/share/runit",
    "usr/share/zsh",
    "usr/src",
    "var/cache",
    "var/lib/dpkg",
    "var/log/runit",
];

/// Whether `path` is left out, by this list or by the image's own.
#[must_use]
pub fn left_out(path: &str, own: &[String]) -> bool {
    ALWAYS.iter().any(|pattern| matches(pattern, path))
        || own.iter().any(|pattern| matches(pattern, path))
}
