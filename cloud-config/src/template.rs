//! Jinja templates, by minijinja: bounded in steps, so that a template always ends.

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value as Json;

/// First line of user data that is a template.
pub const MARK: &str = "## template:";
/// Instructions that a template may take.
const FUEL: u64 = 500_000;

/// `text` with `context` filled in. A name that is not there is an error.
///
/// # Errors
/// What is wrong, with the template's line.
pub fn render(text: &str, context: &Json) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // The engine takes the last line end off.
    let end = if text.ends_with('\n') { "\n" } else { "" };
    let filled = environment.render_named_str("template", text, Serde(context));
    filled.map(|filled| filled + end).map_err(|error| {
        let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
        format!("{line}{error}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_filled_in_and_missing_ones_are_said() {
        let context = serde_json::json!({"v1": {"local_hostname": "a<b"}});
        assert_eq!(render("x: {{ v1.local_hostname }}\n", &context).unwrap(), "x: a<b\n");
        assert!(render("\n{{ v1.region.name }}", &context).unwrap_err().starts_with("line 2: "));
        assert!(
            render(
                "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
                &context
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_template_panics(text in "[{}%#a-z0-9 .|()\"\n]{0,80}") {
            let _ = render(&text, &Json::Null);
        }
    }
}
