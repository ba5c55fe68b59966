//! `modprobe`, as the kernel and the system's own programs call it: `modprobe -q -- fs-vfat`,
//! `modprobe -va bridge br_netfilter`, `modprobe loop max_loop=8`. No unloading, no configuration files.

use std::io::{self, Write};
use std::process::ExitCode;

use super::Loader;

/// What was asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    quiet: bool,
    all: bool,
    dry_run: bool,
    remove: bool,
    names: Vec<String>,
    options: String,
}

/// Runs the applet with its arguments (without the program's name).
pub fn modprobe_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let request = match parse(args) {
        Ok(request) => request,
        Err(problem) => return complain(&problem),
    };
    if request.remove {
        return complain("ros does not unload modules; a reboot without them does the same");
    }
    let mut failed = false;
    match Loader::open() {
        Ok(mut loader) => {
            for name in &request.names {
                if let Err(e) = one(&mut loader, name, &request) {
                    failed = true;
                    report(&request, &e.to_string());
                }
            }
        }
        Err(e) => {
            failed = true;
            report(&request, &e.to_string());
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one(loader: &mut Loader, name: &str, request: &Request) -> io::Result<()> {
    if !request.dry_run {
        return loader.load_any(name, &request.options).map(drop);
    }
    if loader.index().knows(name) || !loader.index().aliases(name).is_empty() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no module {name}")))
}

/// `-q` silences everything, as users of modprobe expect of a module that is not there.
fn report(request: &Request, problem: &str) {
    if !request.quiet {
        complain(problem);
    }
}

fn complain(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "modprobe: {problem}");
    ExitCode::FAILURE
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut request = Request::default();
    let mut rest = Vec::new();
    let mut flags = true;
    for arg in args {
        if flags && arg == "--" {
            flags = false;
        } else if flags && arg.len() > 1 && arg.starts_with('-') {
            flag(&mut request, &arg)?;
        } else {
            rest.push(arg);
        }
    }
    let own = if request.all || request.remove { rest.len() } else { rest.len().min(1) };
    request.options = rest.split_off(own).join(" ");
    request.names = rest;
    if request.names.is_empty() {
        return Err("which module? usage: modprobe [-q] [-n] MODULE [OPTION=VALUE…] | modprobe [-q] -a MODULE…".into());
    }
    Ok(request)
}

fn flag(request: &mut Request, arg: &str) -> Result<(), String> {
    let letters = match arg {
        "--quiet" | "--silent" => "q",
        "--all" => "a",
        "--dry-run" | "--show" => "n",
        "--remove" => "r",
        "--use-blacklist" | "--syslog" | "--verbose" => "v",
        short if !short.starts_with("--") => &short[1..],
        other => return Err(format!("the option {other} is not known")),
    };
    for letter in letters.chars() {
        match letter {
            'q' => request.quiet = true,
            'a' => request.all = true,
            'n' => request.dry_run = true,
            'r' => request.remove = true,
            'b' | 's' | 'v' => {}
            other => return Err(format!("the option -{other} is not known")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_kernels_own_call() {
        let request = parsed("-q -- fs-vfat").unwrap();
        assert!(request.quiet && request.names == ["fs-vfat"] && request.options.is_empty());
    }

    #[test]
    fn many_or_one_with_options() {
        assert_eq!(parsed("-va bridge br_netfilter").unwrap().names, ["bridge", "br_netfilter"]);
        let one = parsed("loop max_loop=8 x=1").unwrap();
        assert_eq!(
            (one.names.as_slice(), one.options.as_str()),
            (&["loop".to_owned()][..], "max_loop=8 x=1")
        );
        assert!(parsed("-r loop").unwrap().remove);
        assert!(parsed("").is_err() && parsed("--what x").is_err() && parsed("-Z x").is_err());
    }
}
