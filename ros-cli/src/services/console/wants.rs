//! From the configuration to what the console is to become.

use std::path::Path;

use cloud_config::Settings;
use cloud_config::settings::{Command, WriteFile};
use ros_api::paths;

use super::accounts::Account;
use super::files::File;
use super::run::Wants;
use super::sshd::Daemon;
use super::users;
use crate::services::apply::all_mounts;

/// File mode of cloud-init.
const MODE: u32 = 0o644;

impl Wants {
    /// What `settings` say, and what could not be understood of them.
    #[must_use]
    pub fn of(settings: &Settings, version: &str) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        let account = match settings.ros.user.as_deref() {
            Some("root") => Account::root(),
            None | Some("ros" | "") => Account::ros(),
            Some(other) => {
                wrong.push(format!("ros.user: {other:?}: expected ros or root; it is ros"));
                Account::ros()
            }
        };
        let ssh = &settings.ros.ssh;
        let further = users::further(settings, &account.name);
        let mut environment: Vec<(String, String)> =
            settings.ros.environment.clone().into_iter().collect();
        environment.extend(settings.ros.network.proxies());
        let sshd = ssh.daemon.then(|| Daemon {
            port: ssh.port,
            listen: ssh.listen_address.iter().cloned().collect(),
            user: account.name.clone(),
            others: further.iter().map(|user| user.name.clone()).collect(),
            passwords: settings.ssh_pwauth && settings.allows("password"),
        });
        let (files, unreadable): (Vec<_>, Vec<_>) = settings
            .write_files
            .iter()
            .filter(|file| is_ours(file))
            .map(file)
            .partition(Result::is_ok);
        let elsewhere = settings.write_files.iter().filter(|file| !is_ours(file));
        wrong.extend(elsewhere.map(|file| {
            format!(
                "write_files: {}: only the console receives files, not {}",
                file.path, file.container
            )
        }));
        wrong.extend(unreadable.into_iter().filter_map(Result::err));
        let wants = Self {
            version: version.to_owned(),
            hostname: Some(settings.host_name().to_owned()),
            fqdn: settings.fqdn.clone(),
            users: further,
            groups: settings.groups.0.clone(),
            passwords: users::passwords(settings, &account.name),
            host_keys: settings.ssh_keys.clone(),
            timezone: settings.timezone.clone(),
            certificates: settings.ca_certs.clone(),
            environment,
            final_message: settings.final_message.clone(),
            phone_home: settings.phone_home.clone(),
            power_state: settings.power_state.clone(),
            account,
            keys: settings.ssh_authorized_keys.clone(),
            sshd,
            autologin: if settings.allows("autologin") {
                settings.ros.autologin.clone()
            } else {
                Vec::new()
            },
            files: files.into_iter().filter_map(Result::ok).collect(),
            commands: settings.runcmd.iter().map(Command::words).collect(),
            // The host has them too; what it mounted under a folder that both share is there already.
            mounts: all_mounts(settings),
            instance: instance(),
        };
        (wants, wrong)
    }
}

fn is_ours(file: &WriteFile) -> bool {
    matches!(file.container.as_str(), "" | "console")
}

fn file(file: &WriteFile) -> Result<File, String> {
    Ok(File {
        path: file.path.clone().into(),
        content: file.decoded().map_err(|why| format!("write_files: {why}"))?,
        mode: file.permissions.unwrap_or(MODE),
        owner: Some(file.owner.clone()).filter(|owner| !owner.is_empty()),
        append: file.append,
        defer: file.defer,
    })
}

/// "Once" is counted by the instance; a machine without instance data is one instance.
fn instance() -> String {
    cloud_config::instance::instance_id(Path::new(paths::INSTANCE)).unwrap_or_else(|| "none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_wants() {
        let mut settings = Settings::default();
        settings.ros.user = Some("root".into());
        settings.write_files = vec![
            WriteFile { path: "/a".into(), content: "x".into(), ..WriteFile::default() },
            WriteFile { path: "/b".into(), container: "ntp".into(), ..WriteFile::default() },
            WriteFile {
                path: "/c".into(),
                content: "?".into(),
                encoding: "b64".into(),
                ..WriteFile::default()
            },
        ];
        let (wants, wrong) = Wants::of(&settings, "v1");
        assert_eq!((wants.account.name.as_str(), wants.files.len(), wrong.len()), ("root", 1, 2));
        assert_eq!(wants.sshd.unwrap().port, 22);
    }
}
