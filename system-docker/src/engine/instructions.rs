//! Instructions of a Dockerfile that change an image's configuration: `--change` of commit and import.

use serde_json::{Map, Value, json};

use super::error::{ApiError, Result};

/// Applies one: `CMD ["sh"]`, `ENV A=b`, `EXPOSE 80`…
pub fn apply(config: &mut Value, line: &str) -> Result<()> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(());
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(ApiError::bad(format!("{word} requires at least one argument")));
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config["Cmd"] = command(rest),
        "ENTRYPOINT" => config["Entrypoint"] = command(rest),
        "USER" => config["User"] = rest.into(),
        "WORKDIR" => config["WorkingDir"] = rest.into(),
        "STOPSIGNAL" => config["StopSignal"] = rest.into(),
        "ENV" => pairs(rest)?.into_iter().for_each(|(name, value)| set_env(config, &name, &value)),
        "LABEL" => {
            let labels = pairs(rest)?.into_iter().map(|(name, value)| (name, value.into()));
            object(config, "Labels").extend(labels);
        }
        "EXPOSE" => {
            let ports = rest.split_whitespace().map(port).collect::<Result<Vec<_>>>()?;
            object(config, "ExposedPorts").extend(ports.into_iter().map(|port| (port, json!({}))));
        }
        "VOLUME" => {
            let paths =
                list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            object(config, "Volumes").extend(paths.into_iter().map(|path| (path, json!({}))));
        }
        other => {
            return Err(ApiError::bad(format!("{other} is not a valid change command")));
        }
    }
    Ok(())
}

/// `["a", "b"]`, or a line for the shell.
fn command(text: &str) -> Value {
    list(text).map_or_else(|| json!(["/bin/sh", "-c", text]), Into::into)
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn object<'a>(config: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !config[key].is_object() {
        config[key] = json!({});
    }
    match &mut config[key] {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn set_env(config: &mut Value, name: &str, value: &str) {
    let mut all: Vec<String> =
        serde_json::from_value(config["Env"].clone()).ok().flatten().unwrap_or_default();
    all.retain(|entry| entry.split('=').next() != Some(name));
    all.push(format!("{name}={value}"));
    config["Env"] = all.into();
}

fn port(text: &str) -> Result<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let known = matches!(protocol, "tcp" | "udp" | "sctp") && number.parse::<u16>().is_ok();
    match known {
        true => Ok(format!("{number}/{protocol}")),
        false => Err(ApiError::bad(format!("Invalid containerPort: {text}"))),
    }
}

/// `a=b "c=d e"`, or the old form `a b`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let words = words(text)?;
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| ApiError::bad(format!("{text:?}: expected NAME=VALUE")))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ApiError::bad(format!("{word:?}: expected NAME=VALUE"))),
    };
    words.iter().map(pair).collect()
}

/// Words as a shell splits them: quotes group, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => all.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    all.extend(word);
    match quote {
        None => Ok(all),
        Some(open) => Err(ApiError::bad(format!("{text:?}: {open} is not closed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = json!({ "Env": ["A=1", "B=2"], "Cmd": ["old"] });
        let lines = [
            r#"CMD ["echo", "hi"]"#,
            "ENTRYPOINT run it",
            r#"ENV A=3 C="x y""#,
            "env D e f",
            "LABEL a.b=c",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "USER me:them",
            "WORKDIR /srv",
        ];
        for line in lines {
            apply(&mut config, line).unwrap();
        }
        let expected = json!({
            "Env": ["B=2", "A=3", "C=x y", "D=e f"], "Cmd": ["echo", "hi"], "Entrypoint": ["/bin/sh", "-c", "run it"],
            "Labels": { "a.b": "c" }, "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "Volumes": { "/data": {} },
            "User": "me:them", "WorkingDir": "/srv",
        });
        assert_eq!(config, expected);
        for wrong in ["RUN touch /x", "CMD", "ENV A", r#"ENV A="b"#, "EXPOSE http", "LABEL =b"] {
            assert_eq!(apply(&mut config, wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}
