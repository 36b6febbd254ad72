//! What `check` tells of files with much that is wrong with them.

use crate::support::Home;

fn checked(home: &Home) -> String {
    home.tidemill(&["check", "p.toml"]).expect(1, &[]).out
}

/// A section written twice hid all that was wrong with the rest.
#[test]
fn a_section_that_is_there_twice_hides_no_other_problem() {
    let home = Home::empty();
    home.change_pipeline(&[
        (
            "[topics.bars]",
            "[topics.ticks]\nbroker = \"main\"\n\n[topics.bars]",
        ),
        ("window = \"1h\"", "windwo = \"1h\""),
        ("size = \"1s\"", "size = \"1s\"\nszie = \"1s\""),
    ]);
    let told = checked(&home);
    for said in [
        "error[E0101]: duplicate key",
        "error[E0103]: stages.once.windwo: unknown key",
        "error[E0103]: stages.bar.szie: unknown key",
    ] {
        assert!(told.contains(said), "{said} in\n{told}");
    }
}

/// Those beyond the first few were left out in silence.
#[test]
fn mistakes_of_syntax_that_are_not_told_are_counted() {
    let home = Home::empty();
    let wrong: String = (0..25).map(|number| format!("k{number} = \n")).collect();
    home.write("p.toml", format!("[pipeline]\n{wrong}"));
    let told = checked(&home);
    // Ten, and how many more there are.
    assert_eq!(told.matches("error[E0101]").count(), 11, "{told}");
    let said = "15 more mistakes of syntax are not shown";
    assert!(told.contains(said), "{said} in\n{told}");
}

/// Any letter is one slip away from any other.
#[test]
fn no_name_of_one_letter_is_taken_for_another() {
    let home = Home::empty();
    home.change_pipeline(&[
        ("[stages.bar]", "[stages.b]"),
        ("[stages.bar.aggregate]", "[stages.b.aggregate]"),
        ("from = \"bar\"", "from = \"x\""),
    ]);
    let told = checked(&home);
    assert!(told.contains("sinks.bars.from"), "{told}");
    assert!(!told.contains("did you mean `b`"), "{told}");
}
