//! How far a run has come with its inputs, as whoever feeds it is told.

use tidemill_broker::Offset;

use super::accepted::World;
use super::versions::chains;
use super::*;

/// It was counted by the place among the sources of a task, and asked for by that in the file: who waited for the
/// second source of a file to be taken waited for ever.
#[tokio::test(start_paused = true)]
async fn what_is_taken_of_a_source_is_known_by_its_place_in_the_file() {
    let world = World::new().await;
    for n in 1..5 {
        world.send("b", 1, n).await;
    }
    let pipeline = world.pipeline(&chains(&[("a", "a"), ("b", "b")]));
    let progress = pipeline.progress();
    let (stop, stopped) = watch::channel(false);
    let looking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(progress.next_of(0, 0), Some(Offset::START));
        assert_eq!(progress.next_of(1, 0), Some(Offset(4)));
        stop.send_replace(true);
    };
    let (ended, ()) = tokio::join!(pipeline.run(RunOptions::new("0", 1), stopped), looking);
    ended.unwrap();
}
