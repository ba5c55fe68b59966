//! The forms of user data, taken apart: documents, scripts, and URLs that are still to be fetched.
//!
//! ```text
//!  gzip ─┐                                  ┌─ #cloud-config, #cloud-config-archive, #compose, #cloud-boothook ─► documents
//!  base64 ┼─► text or MIME multipart ─► part ┼─ #! ──────────────────────────────────────────────────────────────► scripts
//!  jinja ┘       (any of them again)        └─ #include ────────────────────────────────────────────────────────► includes
//! ```
//!
//! Hostile input is bounded in size, in depth and in the number of parts; what is not understood is a
//! [`Diagnostic`], and the other parts count.

use base64::Engine as _;
use mailparse::ParsedMail;
use serde_json::{Value as Json, json};

use crate::diagnostic::Diagnostic;
use crate::settings::gunzip;
use crate::tree::{Layer, Origin};
use crate::{document, layers, template};

/// Forms inside of each other.
const MAX_DEPTH: usize = 8;
/// Parts of one user data.
const MAX_PARTS: usize = 256;

/// A part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What to call it: its file name, or its place.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// How often a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequency {
    /// Once for each instance.
    Instance,
    /// At every boot.
    Boot,
    /// Once on this machine.
    Once,
}

impl Frequency {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Instance, Self::Boot, Self::Once];

    /// The folder that scripts are kept in.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Instance => "scripts",
            Self::Boot => "scripts-per-boot",
            Self::Once => "scripts-per-once",
        }
    }
}

/// User data, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Documents, later ones above earlier ones.
    pub documents: Vec<Part>,
    /// Scripts, in order.
    pub scripts: Vec<(Frequency, Part)>,
    /// URLs of more user data.
    pub includes: Vec<String>,
    /// What was not understood.
    pub diagnostics: Vec<Diagnostic>,
}

/// What a part is, by its MIME type or its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Document,
    Archive,
    Script(Frequency),
    Compose,
    Include,
    Boothook,
    Template,
    Mime,
    Empty,
    Unsupported,
    Unknown,
}

/// Takes `bytes` apart; `context` is what templates are filled in with.
#[must_use]
pub fn unpack(bytes: &[u8], name: &str, context: &Json) -> Unpacked {
    let mut unpacked = Unpacked::default();
    Unpacker { context, out: &mut unpacked }.part(bytes, name, None, 0);
    unpacked
}

/// Everything that is wrong with user data, as `ros config validate` and an installer say it. Templates are checked
/// with instance data that is empty: they are held against the schema when they are filled in.
#[must_use]
pub fn diagnose(bytes: &[u8], name: &str) -> Vec<Diagnostic> {
    if first_line(bytes).starts_with(template::MARK) {
        return Vec::new();
    }
    let plain = form_of(first_line(bytes)) == Form::Unknown;
    if plain && !looks_packed(bytes) {
        // A file of the machine's own needs no first line.
        let mut found = Vec::new();
        let _ = layers::checked(&String::from_utf8_lossy(bytes), Layer::User, name, &mut found);
        return found;
    }
    let unpacked = unpack(bytes, name, &json!({}));
    let mut found = unpacked.diagnostics;
    for part in unpacked.documents {
        let text = String::from_utf8_lossy(&part.content);
        let _ = layers::checked(&text, Layer::User, &part.name, &mut found);
    }
    found
}

fn looks_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(GZIP) || is_mime(first_line(bytes)) || unbase64(bytes).is_some()
}

/// RFC 1952.
const GZIP: &[u8] = &[0x1f, 0x8b];

fn first_line(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()).min(256);
    std::str::from_utf8(&bytes[..end.min(bytes.len())]).unwrap_or_default().trim_end()
}

fn is_mime(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.starts_with("content-type:") || line.starts_with("mime-version:")
}

fn form_of(line: &str) -> Form {
    let word = line.split_whitespace().next().unwrap_or_default();
    match word {
        "#cloud-config" => Form::Document,
        "#cloud-config-archive" => Form::Archive,
        "#compose" => Form::Compose,
        "#include" | "#include-once" => Form::Include,
        "#cloud-boothook" => Form::Boothook,
        "#part-handler" | "#upstart-job" | "#cloud-config-jsonp" => Form::Unsupported,
        _ if line.starts_with(template::MARK) => Form::Template,
        _ if line.starts_with("#!") => Form::Script(Frequency::Instance),
        _ if is_mime(line) => Form::Mime,
        _ => Form::Unknown,
    }
}

/// By MIME type; plain text and unknown types are known by their first line.
fn form_of_type(mime: &str) -> Option<Form> {
    Some(match mime {
        "text/cloud-config" => Form::Document,
        "text/cloud-config-archive" => Form::Archive,
        "text/x-shellscript" | "text/x-shellscript-per-instance" => {
            Form::Script(Frequency::Instance)
        }
        "text/x-shellscript-per-boot" => Form::Script(Frequency::Boot),
        "text/x-shellscript-per-once" => Form::Script(Frequency::Once),
        "text/x-include-url" | "text/x-include-once-url" => Form::Include,
        "text/cloud-boothook" => Form::Boothook,
        "text/jinja2" => Form::Template,
        "text/part-handler" | "text/upstart-job" | "text/cloud-config-jsonp" => Form::Unsupported,
        _ => return None,
    })
}

fn unbase64(bytes: &[u8]) -> Option<Vec<u8>> {
    let coded = |b: &u8| b.is_ascii_alphanumeric() || b"+/=\r\n".contains(b);
    if bytes.len() < 8 || !bytes.iter().all(coded) {
        return None;
    }
    let packed: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let plain = base64::engine::general_purpose::STANDARD.decode(packed).ok()?;
    (plain.starts_with(GZIP) || plain.starts_with(b"#") || is_mime(first_line(&plain)))
        .then_some(plain)
}

struct Unpacker<'a> {
    context: &'a Json,
    out: &'a mut Unpacked,
}

impl Unpacker<'_> {
    fn part(&mut self, bytes: &[u8], name: &str, told: Option<Form>, depth: usize) {
        let parts = self.out.documents.len() + self.out.scripts.len();
        if depth > MAX_DEPTH || parts >= MAX_PARTS {
            return self.wrong(name, "too many parts, or parts inside of parts", None);
        }
        if bytes.starts_with(GZIP) {
            return match gunzip(bytes) {
                Ok(plain) => self.part(&plain, name, told, depth + 1),
                Err(error) => self.wrong(name, &format!("not gzip: {error}"), None),
            };
        }
        if let Some(plain) = unbase64(bytes) {
            return self.part(&plain, name, told, depth + 1);
        }
        let line = first_line(bytes);
        // A template is one whatever the type says: its first line is taken off.
        let by_line = form_of(line);
        let form = if by_line == Form::Template { by_line } else { told.unwrap_or(by_line) };
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        self.take(if blank { Form::Empty } else { form }, bytes, name, depth);
    }

    fn take(&mut self, form: Form, bytes: &[u8], name: &str, depth: usize) {
        let text = String::from_utf8_lossy(bytes);
        match form {
            Form::Empty => {}
            Form::Document => self.document(name, bytes),
            Form::Script(frequency) => {
                let part = Part { name: name.to_owned(), content: bytes.to_vec() };
                self.out.scripts.push((frequency, part));
            }
            Form::Boothook => {
                self.document(name, json!({ "bootcmd": [text] }).to_string().as_bytes());
            }
            Form::Compose => self.compose(name, &text),
            Form::Include => {
                let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
                let (urls, others): (Vec<&str>, Vec<&str>) = lines
                    .filter(|line| !line.is_empty())
                    .partition(|line| line.starts_with("http"));
                self.out.includes.extend(urls.into_iter().map(str::to_owned));
                for other in others {
                    self.wrong(name, &format!("#include: {other:?} is no http URL"), None);
                }
            }
            Form::Template => self.template(name, &text, depth),
            Form::Archive => self.archive(name, &text, depth),
            Form::Mime => self.mime(name, bytes, depth),
            Form::Unsupported => {
                let message = format!("{:?} is not supported", first_line(bytes));
                self.wrong(name, &message, Some("use #cloud-config or a script (#!)"));
            }
            Form::Unknown => {
                let message = format!(
                    "user data begins with {:?}: expected #cloud-config, a script (#!), #compose, #include or MIME",
                    first_line(bytes)
                );
                self.wrong(name, &message, Some("put #cloud-config on the first line"));
            }
        }
    }

    fn document(&mut self, name: &str, bytes: &[u8]) {
        self.out.documents.push(Part { name: name.to_owned(), content: bytes.to_vec() });
    }

    /// Services in Compose's words become `ros.services`.
    fn compose(&mut self, name: &str, text: &str) {
        match document::parse(text, Layer::Instance, name) {
            Ok(node) => {
                let services = node.get("services").unwrap_or(&node).to_json();
                self.document(
                    name,
                    json!({ "ros": { "services": services } }).to_string().as_bytes(),
                );
            }
            Err(wrong) => self.out.diagnostics.push(wrong),
        }
    }

    fn template(&mut self, name: &str, text: &str, depth: usize) {
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        let rest = if line.starts_with(template::MARK) { rest } else { text };
        match template::render(rest, self.context) {
            Ok(filled) => self.part(filled.as_bytes(), name, None, depth + 1),
            Err(error) => self.wrong(name, &format!("template: {error}"), None),
        }
    }

    /// A list of texts, or of `{type, filename, content}`.
    fn archive(&mut self, name: &str, text: &str, depth: usize) {
        let wrapped: String = text.lines().map(|line| format!(" {line}\n")).collect();
        let node = match document::parse(&format!("parts:\n{wrapped}"), Layer::Instance, name) {
            Ok(node) => node.to_json(),
            Err(wrong) => return self.out.diagnostics.push(wrong),
        };
        for (index, part) in node["parts"].as_array().into_iter().flatten().enumerate() {
            let content = part.as_str().or(part["content"].as_str()).unwrap_or_default();
            let form = part["type"].as_str().and_then(form_of_type);
            let own =
                part["filename"].as_str().map_or_else(|| format!("{name}-{index}"), str::to_owned);
            self.part(content.as_bytes(), &own, form, depth + 1);
        }
    }

    fn mime(&mut self, name: &str, bytes: &[u8], depth: usize) {
        // The parser goes as deep as boundaries are nested.
        let marks = bytes.windows(9).filter(|word| word.eq_ignore_ascii_case(b"boundary=")).count();
        if marks > MAX_DEPTH {
            return self.wrong(name, "MIME: too many multiparts", None);
        }
        match mailparse::parse_mail(bytes) {
            Ok(mail) => self.mail(&mail, name, depth),
            Err(error) => self.wrong(name, &format!("not MIME: {error}"), None),
        }
    }

    fn mail(&mut self, mail: &ParsedMail<'_>, name: &str, depth: usize) {
        if !mail.subparts.is_empty() {
            for (index, part) in mail.subparts.iter().enumerate() {
                self.mail(part, &format!("{name}-{index}"), depth + 1);
            }
            return;
        }
        let disposition = mail.get_content_disposition();
        let own = disposition.params.get("filename").map_or(name, String::as_str);
        match mail.get_body_raw() {
            Ok(body) => self.part(&body, own, form_of_type(&mail.ctype.mimetype), depth + 1),
            Err(error) => self.wrong(own, &format!("not readable: {error}"), None),
        }
    }

    fn wrong(&mut self, name: &str, message: &str, hint: Option<&str>) {
        let origin = Origin { layer: Layer::Instance, file: name.to_owned(), line: 1, column: 1 };
        let wrong = Diagnostic::error(origin, message.to_owned());
        self.out.diagnostics.push(match hint {
            Some(hint) => wrong.hint(hint),
            None => wrong,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn names(parts: &[Part]) -> Vec<&str> {
        parts.iter().map(|part| part.name.as_str()).collect()
    }

    #[test]
    fn each_form_is_known() {
        let coded =
            base64::engine::general_purpose::STANDARD.encode(gzip(b"#cloud-config\na: 1\n"));
        // Documents, scripts, includes, complaints.
        type Counts = (usize, usize, usize, usize);
        let table: [(&[u8], Counts); 11] = [
            (b"#cloud-config\nhostname: a\n", (1, 0, 0, 0)),
            (b"#!/bin/sh\necho\n", (0, 1, 0, 0)),
            (b"#compose\nweb: {image: nginx}\n", (1, 0, 0, 0)),
            (b"#include\nhttp://a/b\n# no\nhttps://c\nfile:///x\n", (0, 0, 2, 1)),
            (b"#cloud-boothook\n#!/bin/sh\necho\n", (1, 0, 0, 0)),
            (b"#cloud-config-archive\n- {type: text/cloud-config, content: 'a: 1'}\n- \"#!/bin/sh\\n\"\n", (1, 1, 0, 0)),
            (&gzip(b"#!/bin/sh\n"), (0, 1, 0, 0)),
            (coded.as_bytes(), (1, 0, 0, 0)),
            (b"  \n", (0, 0, 0, 0)),
            (b"hello\n", (0, 0, 0, 1)),
            (b"#part-handler\n", (0, 0, 0, 1)),
        ];
        for (bytes, expected) in table {
            let Unpacked { documents, scripts, includes, diagnostics } =
                unpack(bytes, "u", &json!({}));
            let counts = (documents.len(), scripts.len(), includes.len(), diagnostics.len());
            assert_eq!(counts, expected, "{}: {diagnostics:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_multipart_of_several_forms() {
        let text = "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n\
            --b\nContent-Type: text/cloud-config\nContent-Disposition: attachment; filename=\"one.yml\"\n\nhostname: a\n\
            --b\nContent-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3NoCg==\n\
            --b\nContent-Type: text/x-shellscript-per-boot\n\n#!/bin/sh\n\
            --b\nContent-Type: text/x-shellscript-per-once\n\n#!/bin/sh\n\
            --b\nContent-Type: text/plain\n\n## template: jinja\n#cloud-config\nhostname: {{ v1.instance_id }}\n--b--\n";
        let unpacked = unpack(text.as_bytes(), "u", &json!({"v1": {"instance_id": "i-1"}}));
        assert_eq!(unpacked.diagnostics, []);
        assert_eq!(names(&unpacked.documents), ["one.yml", "u-4"]);
        assert_eq!(unpacked.documents[1].content, b"#cloud-config\nhostname: i-1");
        let script =
            |name: &str, content: &[u8]| Part { name: name.into(), content: content.into() };
        let expected = [
            (Frequency::Instance, script("u-1", b"#!/bin/sh\n")),
            (Frequency::Boot, script("u-2", b"#!/bin/sh")),
            (Frequency::Once, script("u-3", b"#!/bin/sh")),
        ];
        assert_eq!(unpacked.scripts, expected);
    }

    #[test]
    fn what_is_wrong_is_said_for_every_part() {
        let text = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n\nhostnam: a\n\
                    --b\nContent-Type: text/cloud-config\n\nhostname: [a]\n--b--\n";
        assert_eq!(diagnose(text.as_bytes(), "f").len(), 2);
        assert_eq!(diagnose(b"hostname: x\n", "f"), []);
        assert_eq!(diagnose(b"## template: jinja\n#cloud-config\nhostname: {{ v1.x }}\n", "f"), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&bytes, "u", &json!({}));
            let _ = diagnose(&bytes, "u");
            let _ = unpack(&gzip(&bytes), "u", &json!({}));
        }

        #[test]
        fn no_multipart_panics(
            parts in prop::collection::vec(("(text/cloud-config|text/x-shellscript|multipart/mixed; boundary=b|text/plain|a|)", "(base64|quoted-printable|7bit|)", "[#!a-z:=\\-\n{} ]{0,60}"), 0..6),
            end in "(--b--|--b|)",
        ) {
            let mut text = String::from("Content-Type: multipart/mixed; boundary=b\n\n");
            for (kind, encoding, body) in parts {
                text += &format!("--b\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{body}\n");
            }
            let _ = unpack((text + &end).as_bytes(), "u", &json!({}));
        }

        #[test]
        fn no_headed_text_panics(
            head in "(#cloud-config|#cloud-config-archive|#compose|#include|## template: jinja|#!/bin/sh|Content-Type: text/plain)",
            body in "(?s)[ \\-a-z:{}\\[\\]\n\"'&*|>#%0-9]{0,120}",
        ) {
            let text = format!("{head}\n{body}");
            let _ = unpack(text.as_bytes(), "u", &json!({}));
            let _ = diagnose(text.as_bytes(), "u");
        }
    }
}
