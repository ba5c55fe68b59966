//! Path patterns of the definitions: `*` is any run of characters, slashes too. A pattern without a `*` names
//! a path and everything below it.

/// Whether `pattern` is about `path` (both without the leading slash, or both with it).
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.trim_start_matches('/'), path.trim_start_matches('/'));
    if !pattern.contains('*') {
        let below = path.strip_prefix(pattern.trim_end_matches('/'));
        return below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        let table = [
            ("usr/share/doc", "usr/share/doc", true),
            ("/usr/share/doc", "usr/share/doc/a/b", true),
            ("usr/share/doc", "usr/share/docs", false),
            ("usr/lib/*/pam_unix.so", "usr/lib/x/security/pam_unix.so", true),
            ("usr/lib/*/pam_unix.so", "usr/lib/x/security/pam_env.so", false),
            ("etc/*.conf", "etc/a.conf", true),
            ("*.md5sums", "usr/share/base-files/motd.md5sums", true),
            ("usr/bin/*", "usr/bin/x", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
