//! "Did you mean": the nearest of the names that would have been right.

/// The candidate nearest to `written`, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer words may hold more slips; beyond this a suggestion confuses more than it helps.
    let length = written.chars().count();
    let slips_max = (length / 3).clamp(1, 3);
    if written.len() > 128 {
        return None;
    }
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let slips = strsim::damerau_levenshtein(&written, &candidate.to_lowercase());
            (slips, candidate)
        })
        .filter(|(slips, _)| *slips <= slips_max)
        // Something must be left that both have: any letter is one slip away from any other.
        .filter(|(slips, candidate)| *slips < length.max(candidate.chars().count()))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Names as a list in prose: "`a`, `b` or `c`".
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".into(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let names = ["tumbling_window", "key_by", "dedupe"];
        assert_eq!(nearest("keyby", names), Some("key_by"));
        assert_eq!(nearest("Dedup", names), Some("dedupe"));
        assert_eq!(nearest("tumblingwindow", names), Some("tumbling_window"));
        assert_eq!(nearest("filter", names), None);
        assert_eq!(nearest("x", ["b", "y"]), None);
        assert_eq!(nearest("x", ["b", "x2"]), Some("x2"));
        assert_eq!(one_of(names), "`tumbling_window`, `key_by` or `dedupe`");
    }
}
