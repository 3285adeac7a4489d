//! Checks that markup is well-formed.

/// Asserts that elements are closed in order, attributes are quoted, and there is no bare `<` or `&`.
pub fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    let text = |text: &str| {
        for (at, _) in text.match_indices('&') {
            let (name, _) = text[at + 1..].split_once(';').expect("an entity ends");
            assert!(["amp", "lt", "gt", "quot", "apos", "#39"].contains(&name), "&{name};");
        }
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
    };
    while let Some((before, after)) = rest.split_once('<') {
        text(before);
        let (tag, after) = after.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        text(tag);
        match (tag.strip_prefix('/'), tag.ends_with('/')) {
            (Some(name), _) => assert_eq!(open.pop(), Some(name)),
            (None, true) => {}
            (None, false) => open.push(tag.split_whitespace().next().expect("a name")),
        }
        rest = after;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}
