//! Makes the generated part of `docs/cloud-config.md` anew.

use cloud_config::schema::table;

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cloud-config.md");
    let text = std::fs::read_to_string(path)?;
    let own = text.find(table::BEGIN).map_or(&text[..], |at| &text[..at]);
    std::fs::write(path, format!("{own}{}", table::markdown()))
}
