//! A new version of a file and the tasks of an older one: each goes on from what it has left itself, all of them
//! or none, and what was closed stays so.

use super::accepted::{BOTH, ONCE, WINDOW, World, file, file_over, sink};

/// Chains that have nothing to do with each other: a source of this name over each topic.
pub(super) fn chains(sources: &[(&str, &str)]) -> String {
    let chain = |(name, topic): &(&str, &str)| {
        let source = format!(
            "[topics.{name}]\ntopic = \"{topic}\"\nevent = \"Trade\"\nkey = \"account\"\nstart = \"earliest\"\n"
        );
        let stage = format!(
            "[stages.once-{topic}]\nfrom = \"{name}\"\nop = \"dedupe\"\nid = [\"n\"]\nwindow = \"1h\"\n"
        );
        source + &stage + &sink(&format!("out-{topic}"), &format!("once-{topic}"))
    };
    file_over(&sources.iter().map(chain).collect::<String>())
}

/// How many records a topic has, all of different ids.
async fn count(world: &World, topic: &str) -> usize {
    let records = world.read(topic).await;
    let mut ids: Vec<_> = records.iter().map(|(_, id)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), records.len(), "{topic}: ids come twice");
    records.len()
}

/// Tasks were told apart by the names of their sources, in order: one that was renamed took what another had
/// left, and all was written twice.
#[tokio::test(start_paused = true)]
async fn a_task_goes_on_from_what_it_has_left_whatever_its_sources_are_called() {
    for names in [["z", "b"], ["b", "a"]] {
        let world = World::new().await;
        for n in 1..5 {
            world.send("a", 1, n).await;
            world.send("b", 1, n).await;
        }
        world.run(&chains(&[("a", "a"), ("b", "b")])).await.unwrap();
        let renamed = chains(&[(names[0], "a"), (names[1], "b")]);
        world.run(&renamed).await.unwrap();
        for topic in ["a", "b"] {
            // One that was seen before, and one that was not.
            world.send(topic, 2, 4).await;
            world.send(topic, 2, 5).await;
        }
        world.run_as(&renamed, false).await.unwrap();
        assert_eq!(count(&world, "out-a").await, 5, "{names:?}");
        assert_eq!(count(&world, "out-b").await, 5, "{names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_that_would_find_what_others_have_left_are_refused_before_anything_is_written() {
    let world = World::over(&["a", "b", "c"], 1).await;
    for topic in ["a", "b", "c"] {
        world.send(topic, 1, 1).await;
    }
    let first = chains(&[("a", "a"), ("b", "b")]);
    world.run(&first).await.unwrap();
    let second = chains(&[("b", "b"), ("c", "c")]);
    let error = world.run(&second).await.unwrap_err().to_string();
    let said = "it reads `c`, but the state in its place is of one that read `b`, which another task reads now";
    assert!(error.contains(said), "{error}");
    // Neither of the two went on as the new version.
    world.run_as(&first, false).await.unwrap();
    assert_eq!(count(&world, "out-a").await, 1);
    assert_eq!(count(&world, "out-b").await, 1);
}

/// Neither name was gone, so neither was found under the other's, and both were read once more.
#[tokio::test(start_paused = true)]
async fn sources_that_swap_their_names_within_a_task_go_on_where_their_topics_were() {
    let world = World::new().await;
    for n in 1..5 {
        world.send("a", 10, n).await;
        world.send("b", 20, n).await;
    }
    let first = file(&(BOTH.to_owned() + &sink("out", "both")));
    world.run(&first).await.unwrap();
    let swapped = first
        .replace("[topics.a]", "[topics.b]\ntopic = \"a\"")
        .replacen(
            "[topics.b]\n            broker",
            "[topics.a]\ntopic = \"b\"\nbroker",
            1,
        );
    world.run(&swapped).await.unwrap();
    assert_eq!(count(&world, "out").await, 0, "all are held");
    // Event time, too, is where it was on each: at 10 s on the one, 20 s on the other.
    world.send("a", 15, 5).await;
    world.run_as(&swapped, false).await.unwrap();
    assert_eq!(count(&world, "out").await, 4);
    world.send("a", 25, 6).await;
    world.send("b", 25, 6).await;
    world.run_as(&swapped, false).await.unwrap();
    assert_eq!(count(&world, "out").await, 9);
}

/// The task of the empty partition went on as the new version and the other was refused: after that, neither
/// file could run.
#[tokio::test(start_paused = true)]
async fn a_new_version_is_taken_by_all_tasks_or_by_none() {
    let world = World::over(&["a", "b"], 2).await;
    let first = file(
        &(WINDOW.replace("from = \"a\"", "from = \"a\"\nkey = \"account\"") + &sink("out", "w")),
    );
    world.send("a", 1, 1).await;
    world.run(&first).await.unwrap();
    let second = first.replace("size = \"1m\"", "size = \"2m\"");
    let error = world.run(&second).await.unwrap_err().to_string();
    assert!(
        error.contains("holds what means something else to the new version"),
        "{error}"
    );
    world.run_as(&first, false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn state_whose_stage_has_gone_to_another_task_is_not_left_behind() {
    let world = World::new().await;
    let of = |stage: &str| {
        file(&(stage.to_owned() + &sink("out", "once") + &sink("raw-a", "a") + &sink("raw-b", "b")))
    };
    let first = of(ONCE);
    world.send("a", 1, 1).await;
    world.run(&first).await.unwrap();
    let second = of(&ONCE.replace("from = \"a\"", "from = \"b\""));
    let error = world.run(&second).await.unwrap_err().to_string();
    assert!(
        error.contains("its state `once` is kept by another task now"),
        "{error}"
    );
    world.run_as(&first, false).await.unwrap();
}

/// The last version had nothing of that name to compare with: what an older one had left there was taken for its
/// own, ids that it had not seen among them.
#[tokio::test(start_paused = true)]
async fn state_that_the_last_version_has_not_gone_on_with_is_not_taken_up_again() {
    let of = |stage: &str, from: &str| file(&(stage.to_owned() + &sink("out", from)));
    let world = World::new().await;
    world.send("a", 1, 1).await;
    let first = of(ONCE, "once");
    world.run(&first).await.unwrap();
    let second = of("", "a");
    world.run(&second).await.unwrap();
    for third in [
        &first,
        &of(&WINDOW.replace("stages.w", "stages.once"), "once"),
    ] {
        let error = world.run(third).await.unwrap_err().to_string();
        let said = "its state `once` is of an older version of the file";
        assert!(error.contains(said), "{error}");
    }
    world
        .run(&of(&ONCE.replace("stages.once", "stages.again"), "again"))
        .await
        .unwrap();
}

/// It made one bar more of the event, under the id of the whole one.
#[tokio::test(start_paused = true)]
async fn a_window_that_has_fired_stays_closed_however_late_a_later_version_takes_events() {
    let world = World::new().await;
    let window = WINDOW.replace("\"1m\"", "\"7s\"\nlateness = \"2s\"");
    let first = file(&(window.clone() + &sink("out", "w")));
    for (n, second) in [0, 1, 50].into_iter().enumerate() {
        world.send("a", second, n as i64).await;
    }
    world.run(&first).await.unwrap();
    assert_eq!(count(&world, "out").await, 1);
    let longer = first.replace("\"2s\"", "\"1h\"");
    world.run(&longer).await.unwrap();
    world.send("a", 2, 4).await;
    world.run_as(&longer, false).await.unwrap();
    // Also one that took nothing before it was closed.
    world.send("a", 9, 5).await;
    world.run_as(&longer, false).await.unwrap();
    assert_eq!(count(&world, "out").await, 1);
    assert_eq!(world.read("p.dead-letter").await.len(), 2);
    // What comes to a window that was not closed by then is taken, as the file says.
    world.send("a", 59, 6).await;
    world.send("a", 51, 7).await;
    world.run_as(&longer, false).await.unwrap();
    assert_eq!(count(&world, "out").await, 3, "it has fired twice");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_a_window_reads_in_a_later_version_opens_none_that_has_fired() {
    let world = World::new().await;
    let first = file(&(WINDOW.replace("\"1m\"", "\"7s\"") + &sink("out", "w")));
    for second in [1, 50] {
        world.send("a", second, 1).await;
    }
    world.run(&first).await.unwrap();
    world.send("b", 2, 1).await;
    let both = first.replace("from = \"a\"", "from = [\"a\", \"b\"]");
    world.run(&both).await.unwrap();
    world.send("b", 55, 1).await;
    world.run_as(&both, false).await.unwrap();
    world.send("a", 56, 1).await;
    world.run_as(&both, false).await.unwrap();
    assert_eq!(world.read("p.dead-letter").await.len(), 1);
    assert_eq!(
        count(&world, "out").await,
        2,
        "and the window that ends at 53 s, as both are beyond it"
    );
}

/// It held nobody back until its next record, as if the file still said after how long.
#[tokio::test(start_paused = true)]
async fn an_input_is_not_idle_any_more_once_the_file_does_not_say_so() {
    let world = World::new().await;
    let idle = file(&(BOTH.to_owned() + &sink("out", "both")))
        .replace("[topics.b]", "[topics.b]\nidle = \"100ms\"");
    world.send("b", 1, 1).await;
    world.send("a", 2, 1).await;
    world.run(&idle).await.unwrap();
    assert_eq!(count(&world, "out").await, 1, "the second input was idle");
    let never = idle.replace("idle = \"100ms\"", "");
    world.run(&never).await.unwrap();
    world.send("a", 30, 2).await;
    world.run_as(&never, false).await.unwrap();
    assert_eq!(count(&world, "out").await, 1, "the second input is awaited");
}

/// What is known of a window followed the stage's name, its state did not: both fired once more.
#[tokio::test(start_paused = true)]
async fn a_window_that_has_fired_stays_closed_where_its_stage_is_renamed_and_its_state_kept() {
    for change in ["lateness = \"1h\"", "from = [\"a\", \"b\"]"] {
        let world = World::new().await;
        let first = file(&(WINDOW.replace("\"1m\"", "\"7s\"") + &sink("out", "w")));
        for second in [1, 50] {
            world.send("a", second, 1).await;
        }
        world.run(&first).await.unwrap();
        assert_eq!(count(&world, "out").await, 1);
        let is_late = change.starts_with("lateness");
        world.send(if is_late { "a" } else { "b" }, 2, 1).await;
        let renamed = WINDOW
            .replace("\"1m\"", "\"7s\"")
            .replace("[stages.w", "[stages.x")
            .replace("op = ", "state = \"w\"\nop = ");
        let changed = match is_late {
            true => renamed.replace("op = ", &format!("{change}\nop = ")),
            false => renamed.replace("from = \"a\"", change),
        };
        let second = file(&("[state.w]\n".to_owned() + &changed + &sink("out", "x")));
        world.run(&second).await.unwrap();
        for topic in ["a", "b"] {
            world.send(topic, 55, 1).await;
        }
        world.run_as(&second, false).await.unwrap();
        assert_eq!(world.read("p.dead-letter").await.len(), 1, "{change}");
    }
}

/// Event time began anew with the input that was new, and the ids that it had forgotten passed once more.
#[tokio::test(start_paused = true)]
async fn an_input_that_a_dedupe_reads_in_a_later_version_passes_nothing_that_was_forgotten() {
    for is_renamed in [false, true] {
        let world = World::new().await;
        let once = ONCE.replace("\"1h\"", "\"10s\"");
        let first = file(&(once.clone() + &sink("out", "once")));
        let events = [(1, 1), (20, 2), (50, 3)];
        for (second, n) in events {
            world.send("a", second, n).await;
        }
        world.run(&first).await.unwrap();
        assert_eq!(count(&world, "out").await, 3);
        for (second, n) in events {
            world.send("b", second, n).await;
        }
        let both = once.replace("from = \"a\"", "from = [\"a\", \"b\"]");
        let both = match is_renamed {
            false => both + &sink("out", "once"),
            true => {
                let renamed = both.replace("[stages.once]", "[stages.unique]\nstate = \"once\"");
                "[state.once]\n".to_owned() + &renamed + &sink("out", "unique")
            }
        };
        world.run(&file(&both)).await.unwrap();
        assert_eq!(world.read("out").await.len(), 3, "{is_renamed}");
        assert_eq!(world.read("p.dead-letter").await.len(), 2, "{is_renamed}");
    }
}

/// It was said to be another log.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_read_again_after_a_version_that_did_not_is_told_where_it_was() {
    let world = World::new().await;
    let one = file(&(ONCE.to_owned() + &sink("out", "once")));
    let both = one.replace("from = \"a\"", "from = [\"a\", \"b\"]");
    for n in 1..4 {
        world.send("a", 1, n).await;
        world.send("b", 1, n).await;
    }
    world.run(&both).await.unwrap();
    let error = world.run_as(&one, false).await.unwrap_err().to_string();
    let said = "`b` is gone, and how far it was read is forgotten";
    assert!(error.contains(said), "{error}");
    world.run(&one).await.unwrap();
    let error = world.run(&both).await.unwrap_err().to_string();
    let said = "the group has committed offset 3, but the version of the file before did not read it; `tidemill offsets reset FILE --source b --partition 0 --to 3 --keep-state` goes on there";
    assert!(error.contains(said), "{error}");
}
