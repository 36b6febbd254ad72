//! A new version of a file and the tasks of an older one: each goes on from what it has left itself, all of them
//! or none, and what was closed stays so.

use super::accepted::{BOTH, ONCE, WINDOW, World, file, file_over, sink};

/// Chains that have nothing to do with each other: a source of this name over each topic.
fn chains(sources: &[(&str, &str)]) -> String {
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
