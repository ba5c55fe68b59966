//! Every path that two programs agree on. `/` is the RAM root that the boot stage fills, `/var` is the
//! STATE partition (or a tmpfs), `/boot` is the BOOT partition.

/// File-system label of the STATE partition (ext4).
pub const STATE_LABEL: &str = "ROS_STATE";
/// File-system label of the BOOT partition (FAT32, also the EFI system partition).
pub const BOOT_LABEL: &str = "ROS_BOOT";

/// Where STATE is mounted.
pub const STATE: &str = "/var";
/// Where BOOT is mounted.
pub const BOOT: &str = "/boot";

/// Docker Engine API of the system runtime.
pub const SYSTEM_DOCKER_SOCKET: &str = "/run/system-docker.sock";
/// Image store, volumes and container records (persistent).
pub const STORE: &str = "/var/lib/system-docker";
/// Shims' sockets and bundles (one boot).
pub const RUN_SYSTEM_DOCKER: &str = "/run/system-docker";

/// Everything that ros itself keeps.
pub const ROS: &str = "/var/lib/ros";
/// One folder a generation, plus the `current` and `good` pointers. See [`crate::generation`].
pub const GENERATIONS: &str = "/var/lib/ros/generations";
/// Which versions are held: see `ros os pin`.
pub const PINS: &str = "/var/lib/ros/pins.json";
/// A switch of services in the running system that is not over: what it is about, and how far it is.
pub const SWITCH: &str = "/var/lib/ros/switch.json";
/// What held before the boot into a generation and must hold after it: [`GENERATIONS`] and the user's checks.
pub const CHECKS: &str = "/var/lib/ros/checks.json";
/// One receipt a change of the OS, `<number>.json`.
pub const HISTORY: &str = "/var/lib/ros/history";
/// The user's configuration.
pub const CONF: &str = "/var/lib/ros/conf";
/// What `ros config set` writes: user intent only.
pub const CLOUD_CONFIG: &str = "/var/lib/ros/conf/cloud-config.yml";
/// Fragments, merged in name order below [`CLOUD_CONFIG`].
pub const CLOUD_CONFIG_D: &str = "/var/lib/ros/conf/cloud-config.d";
/// OEM defaults, lowest but for the release's own.
pub const OEM_CONFIG: &str = "/var/lib/ros/oem/oem-config.yml";
/// Instance data as the datasource gave it: `instance-id`, `user-data`, `meta-data`,
/// `network-config`, `datasource`; and `sem/` with one stamp per thing done once per instance.
pub const INSTANCE: &str = "/var/lib/ros/instance";
/// SSH host keys, kept over console changes.
pub const SSH_HOST_KEYS: &str = "/var/lib/ros/ssh";
/// How far the present boot came: [`crate::boot::Attempt`].
pub const BOOT_ATTEMPT: &str = "/var/lib/ros/log/attempt.json";
/// How far the boot before this one came: what [`BOOT_ATTEMPT`] was when this boot began.
pub const PREVIOUS_ATTEMPT: &str = "/run/ros/previous-attempt.json";

/// Runtime folder of ros; bind-mounted into the services that declare it.
pub const RUN_ROS: &str = "/run/ros";
/// The marker that the network is ready, with the reason.
pub const NETWORK_READY: &str = "/run/ros/network.ready";
/// `ros` and `system-docker` of the running generation.
pub const RUN_BIN: &str = "/run/ros/bin";
/// `release.yml` of the running generation.
pub const RUN_RELEASE: &str = "/run/ros/release.yml";
/// The daemon that PID 1 keeps: a link to a generation's `bin/system-docker`.
pub const RUN_DAEMON: &str = "/run/ros/daemon";
/// What PID 1 tells about it: [`crate::init::DaemonReport`].
pub const DAEMON_REPORT: &str = "/run/ros/daemon.json";
/// A FIFO that PID 1 reads: one request a line, see [`crate::init::InitRequest`].
pub const INIT_CONTROL: &str = "/run/ros/init.ctl";
/// What the boot stage did, with times: [`crate::boot::BootReport`].
pub const BOOT_REPORT: &str = "/run/ros/boot.json";
/// What the services did, with times; written by `ros bring-up`.
pub const SERVICES_REPORT: &str = "/run/ros/services.json";
/// The whole kernel command line, root's; only there when a part of it is secret.
pub const RUN_CMDLINE: &str = "/run/ros/cmdline";
/// What everybody may see of it, bound over `/proc/cmdline`; only there when a part of it is secret.
pub const RUN_CMDLINE_PUBLIC: &str = "/run/ros/cmdline.public";
/// The commands of `bootcmd` that were run in this boot: a JSON list of word lists.
pub const BOOTCMD_RUN: &str = "/run/ros/bootcmd.json";
/// One empty file a service: its new container is prepared to take over, see `x-ros: {swap: hand-over}`.
pub const HAND_OVER: &str = "/run/ros/hand-over";
/// There once the machine goes down: what stops then is not to be started again.
pub const GOING_DOWN: &str = "/run/ros/going-down";
/// The command line of the user's engine, bound from the engine's own image while that runs.
pub const DOCKER_CLIENT: &str = "/run/ros/docker";
/// The one resolv.conf; `/etc/resolv.conf` of the host and of every service image links here.
pub const RESOLV_CONF: &str = "/run/ros/resolv/resolv.conf";

/// GRUB's environment block, see [`crate::boot::BootEnv`].
pub const GRUB_ENV: &str = "/boot/grub/grubenv";
/// The boot menu's entries, one per generation; the only menu file that ever changes.
pub const GRUB_GENERATIONS: &str = "/boot/grub/generations.cfg";
/// One folder a boot set, named by the hex of its digest: `vmlinuz`, `initrd`.
pub const BOOT_SETS: &str = "/boot/sets";

/// Folder of a release inside its image `os:<tag>` (`release.yml`, `boot/`, `bin/`, `grub/`, `sbom.spdx.json`).
pub const RELEASE_DIR: &str = "/ros";
/// In it: GRUB's first sector, told where its core is (`ros_api::disk`).
pub const GRUB_BOOT: &str = "grub/boot.img";
/// In it: GRUB's core for a BIOS.
pub const GRUB_CORE: &str = "grub/core.img";
/// In it: GRUB as EFI program.
pub const GRUB_EFI: &str = "grub/BOOTX64.EFI";
/// In it: `grub.cfg`.
pub const GRUB_CONFIG: &str = "grub/grub.cfg";
/// What `ros install` hands to the installer of a release: the configuration of the machine-to-be.
pub const INSTALL: &str = "/run/ros/install";
/// In it, and in [`CLOUD_CONFIG_D`] of the machine-to-be.
pub const INSTALL_CONFIG: &str = "20-install.yml";

/// An OCI image layout inside the initrd of a live medium; loaded when there is no STATE.
pub const PRELOAD: &str = "/preload";
