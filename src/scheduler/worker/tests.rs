//! The worker with a scripted engine in virtual time: what happens during a forward is done by the engine's script, so
//! every interleaving is the same each time.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::*;
use crate::domain::{Job, JobEvent, ModelInfo, Summary};
use crate::engine::RowId;
use crate::engine::scripted::{Record, Scripted, Verdict, VirtualClock};
use crate::scheduler::testing::{job, limits, model};
use crate::scheduler::{Handle, Limits, Ticket, channel};

/// How long the fake forwards take.
const TICK: Duration = Duration::from_millis(10);

/// A running worker, and the way to end it.
struct Rig {
    handle: Handle,
    clock: VirtualClock,
    record: Record,
    thread: std::thread::JoinHandle<()>,
}

/// A worker whose forwards take a tick each; `script` is called with the number of each forward, from 0.
fn rig(limits: &Limits, mut script: impl FnMut(usize, &Batch) -> Verdict + Send + 'static) -> Rig {
    let catalogue = catalogue();
    let clock = VirtualClock::new();
    let (now, ticking) = (clock.clone(), clock.clone());
    let (handle, board) = channel(&catalogue, limits, 1, Arc::new(move || now.now()));
    let mut forwards = 0;
    let (engine, record) = Scripted::new(&catalogue, move |batch| {
        ticking.advance(TICK);
        forwards += 1;
        script(forwards - 1, batch)
    });
    let thread = std::thread::spawn(move || run(board, Box::new(engine)));
    Rig { handle, clock, record, thread }
}

impl Rig {
    /// Ends the worker by dropping the last handle, once it has finished what it has.
    fn end(self) -> Record {
        drop(self.handle);
        self.thread.join().unwrap();
        self.record
    }
}

fn catalogue() -> Arc<[ModelInfo]> {
    vec![model("a", 1)].into()
}

/// From a test to the script of its engine, which waits for it: a ticket to drop, a handle to use.
fn hand_over<T: Send>() -> (SyncSender<T>, impl Fn() -> T + Send) {
    let (sender, receiver) = sync_channel(1);
    (sender, move || receiver.recv().unwrap())
}

async fn rest(ticket: &mut Ticket) -> (Vec<u32>, JobEvent) {
    let mut images = Vec::new();
    loop {
        match ticket.next().await.unwrap() {
            JobEvent::Image(image) => images.push(image.index),
            end => return (images, end),
        }
    }
}

fn failed(event: &JobEvent) -> &Error {
    let JobEvent::Failed(error) = event else { panic!("{event:?}") };
    error
}

#[tokio::test]
async fn a_job_streams_its_images_and_ends_once() {
    let rig = rig(&limits(2), |_, _| Verdict::Proceed);
    rig.handle.ready().await.unwrap();
    let mut ticket = rig.handle.submit(job(0, 3, 2)).unwrap();
    assert_eq!((ticket.accepted.evaluations, ticket.accepted.queue_position), (2, 0));
    let (images, end) = rest(&mut ticket).await;
    assert_eq!(images, [0, 1, 2]);
    let JobEvent::Finished(summary) = end else { panic!("{end:?}") };
    assert_eq!(summary, Summary { images: 3, full: 3, evaluations: 6, total: 4 * TICK });
    assert!(ticket.next().await.is_none());
    let sizes: Vec<usize> = rig.end().batches().iter().map(|batch| batch.rows.len()).collect();
    assert_eq!(sizes, [2, 2, 1, 1]);
}

#[tokio::test]
async fn a_dropped_ticket_frees_its_rows_before_the_next_forward() {
    let ((go, gate), (give, take)) = (hand_over(), hand_over::<Ticket>());
    let rig = rig(&limits(4), move |forward, _| {
        match forward {
            0 => gate(),
            1 => drop(take()),
            _ => {}
        }
        Verdict::Proceed
    });
    let doomed = rig.handle.submit(job(0, 8, 50)).unwrap();
    let mut kept = rig.handle.submit(job(0, 1, 20)).unwrap();
    // Both are there before the first forward ends.
    go.send(()).unwrap();
    give.send(doomed).unwrap();
    assert!(matches!(rest(&mut kept).await.1, JobEvent::Finished(_)));
    let record = rig.end();
    let (batches, released) = (record.batches(), record.released());
    assert!(batches[..2].iter().all(|batch| batch.rows.iter().any(|row| released.contains(&row.row))));
    assert!(batches[2..].iter().all(|batch| batch.rows.iter().all(|row| !released.contains(&row.row))));
    let begun = batches.iter().flat_map(|batch| &batch.rows).filter(|row| row.start.is_some()).count();
    assert_eq!(released.len(), begun - 1, "every row of the job that had begun");
}

#[tokio::test]
async fn an_expired_job_ends_before_the_device_sees_it_again() {
    let rig = rig(&limits(1), |_, _| Verdict::Proceed);
    let deadline = Some(rig.clock.now() + 3 * TICK);
    let mut late = rig.handle.submit(Job { deadline, ..job(0, 1, 50) }).unwrap();
    let (images, end) = rest(&mut late).await;
    assert!(images.is_empty() && matches!(failed(&end), Error::DeadlineExceeded));
    let record = rig.end();
    assert_eq!((record.batches().len(), record.released().len()), (3, 1));
}

#[tokio::test]
async fn a_slow_reader_holds_its_own_permits_and_delays_nobody() {
    let limits = Limits { max_queued_images: 4, ..limits(8) };
    let rig = rig(&limits, |_, _| Verdict::Proceed);
    let mut slow = rig.handle.submit(job(0, 3, 1)).unwrap();
    let mut quick = rig.handle.submit(job(0, 1, 5)).unwrap();
    assert!(matches!(rest(&mut quick).await.1, JobEvent::Finished(_)));
    let refused = rig.handle.submit(job(0, 2, 1)).unwrap_err();
    assert!(matches!(refused, Error::Overloaded { retry_after, .. } if !retry_after.is_zero()), "{refused:?}");
    assert!(matches!(slow.next().await, Some(JobEvent::Image(_))));
    let mut next = rig.handle.submit(job(0, 2, 1)).unwrap();
    assert!(matches!(rest(&mut next).await.1, JobEvent::Finished(_)));
    assert!(matches!(rig.handle.submit(job(0, 3, 1)), Err(Error::Overloaded { .. })));
    drop(slow);
    assert!(rig.handle.submit(job(0, 4, 1)).is_ok());
    assert!(matches!(rig.handle.submit(job(0, 5, 1)), Err(Error::Invalid(_))), "more than ever fits");
    rig.end();
}

#[tokio::test]
async fn an_engine_that_cannot_begin_leaves_dead_handles() {
    let (handle, board) = channel(&catalogue(), &limits(1), 1, Arc::new(Instant::now));
    let mut waiting = handle.submit(job(0, 1, 1)).unwrap();
    assert!(handle.is_alive());
    struct Broken;
    impl Engine for Broken {
        fn step(&mut self, _: &Batch) -> Result<Vec<Outcome>> {
            Err(Error::Compute("broken".into()))
        }
        fn release(&mut self, _: &[RowId]) {}
    }
    std::thread::spawn(move || run(board, Box::new(Broken))).join().unwrap();
    assert!(!handle.is_alive());
    assert!(matches!(failed(&rest(&mut waiting).await.1), Error::Unavailable(_)));
    assert!(matches!(handle.submit(job(0, 1, 1)), Err(Error::Unavailable(_))));
    assert!(matches!(handle.ready().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_failed_forward_and_a_panic_fail_their_jobs_alone() {
    let rig = rig(&limits(1), |forward, _| match forward {
        0 => Verdict::Fail(Error::Compute("no memory".into())),
        1 => panic!("scripted"),
        3 => Verdict::FailRow(0),
        _ => Verdict::Proceed,
    });
    for expected in [false, false, true, false, true] {
        let mut ticket = rig.handle.submit(job(0, 1, 1)).unwrap();
        let (_, end) = rest(&mut ticket).await;
        assert_eq!(matches!(end, JobEvent::Finished(_)), expected, "{end:?}");
        assert!(expected || matches!(failed(&end), Error::Compute(_)));
    }
    rig.end();
}

#[tokio::test]
async fn a_lost_device_stops_the_worker_and_fails_everything() {
    for error in [|| Error::Unavailable("gone".into()), || Error::Compute("broken".into())] {
        let rig = rig(&limits(1), move |_, _| Verdict::Fail(error()));
        // Those that come after the worker has stopped are refused, those before fail.
        for _ in 0..FAILURES_IN_A_ROW {
            if let Ok(mut ticket) = rig.handle.submit(job(0, 2, 4)) {
                failed(&rest(&mut ticket).await.1);
            }
        }
        rig.handle.stopped().await;
        assert!(!rig.handle.is_alive());
        assert!(matches!(rig.handle.submit(job(0, 1, 1)), Err(Error::Unavailable(_))));
        rig.end();
    }
}

#[tokio::test]
async fn draining_finishes_what_was_taken_and_refuses_the_rest() {
    let (give, take) = hand_over::<Handle>();
    let rig = rig(&limits(1), move |forward, _| {
        if forward == 0 {
            take().drain();
        }
        Verdict::Proceed
    });
    let mut taken = rig.handle.submit(job(0, 2, 3)).unwrap();
    give.send(rig.handle.clone()).unwrap();
    assert!(matches!(rest(&mut taken).await, (images, JobEvent::Finished(_)) if images == [0, 1]));
    assert!(matches!(rig.handle.submit(job(0, 1, 1)), Err(Error::Unavailable(_))));
    rig.handle.stopped().await;
    assert!(!rig.handle.is_alive());
    rig.end();
}

#[tokio::test]
async fn what_was_submitted_before_a_drain_is_finished() {
    let (handle, board) = channel(&catalogue(), &limits(4), 1, Arc::new(Instant::now));
    let mut ticket = handle.submit(job(0, 2, 3)).unwrap();
    handle.drain();
    let (engine, _) = Scripted::new(&catalogue(), |_| Verdict::Proceed);
    let worker = std::thread::spawn(move || run(board, Box::new(engine)));
    assert!(matches!(rest(&mut ticket).await.1, JobEvent::Finished(_)));
    worker.join().unwrap();
}

#[tokio::test]
async fn a_failed_job_leaves_nothing_on_the_engine() {
    let rig = rig(&limits(2), |_, _| Verdict::FailRow(0));
    let mut ticket = rig.handle.submit(job(0, 2, 2)).unwrap();
    assert!(matches!(failed(&rest(&mut ticket).await.1), Error::Compute(_)));
    // Nothing else comes that would wake the worker.
    assert_eq!(rig.end().released().len(), 2);
}

/// Runs `script` over jobs that `client` submits, with metrics of their own; returns these.
fn metered(
    script: impl FnMut(&Batch, &VirtualClock) -> Verdict + Send + 'static,
    client: impl AsyncFnOnce(Handle, VirtualClock) + Send + 'static,
) -> String {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let catalogue: Arc<[ModelInfo]> = vec![model("a", 3)].into();
    let clock = VirtualClock::new();
    let (theirs, ticking, now) = (clock.clone(), clock.clone(), clock.clone());
    let (handle, board) =
        metrics::with_local_recorder(&recorder, || channel(&catalogue, &limits(4), 1, Arc::new(move || now.now())));
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(client(handle, theirs));
    });
    let mut script = script;
    let (engine, _) = Scripted::new(&catalogue, move |batch| {
        ticking.advance(TICK);
        script(batch, &ticking)
    });
    metrics::with_local_recorder(&recorder, || run(board, Box::new(engine)));
    client.join().unwrap();
    recorder.handle().render()
}

#[test]
fn a_caller_that_leaves_at_its_deadline_did_not_cancel() {
    let (give, take) = hand_over::<Ticket>();
    let text = metered(
        move |_, clock| {
            clock.advance(TICK);
            drop(take());
            Verdict::Proceed
        },
        async move |handle, clock| {
            let late = Job { deadline: Some(clock.now() + 2 * TICK), ..job(0, 3, 50) };
            give.send(handle.submit(late).unwrap()).unwrap();
        },
    );
    for line in [
        r#"flowmap_images_cancelled_total{model="a@3",reason="deadline"} 3"#,
        r#"flowmap_images_cancelled_total{model="a@3",reason="cancelled"} 0"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn an_idle_worker_hears_of_the_drain() {
    let rig = rig(&limits(1), |_, _| Verdict::Proceed);
    rig.handle.ready().await.unwrap();
    rig.handle.drain();
    rig.handle.stopped().await;
    rig.end();
}

#[tokio::test]
async fn an_abort_ends_everything_after_the_forward_in_progress() {
    let (give, take) = hand_over::<Handle>();
    let rig = rig(&limits(1), move |forward, _| {
        if forward == 1 {
            take().abort();
        }
        Verdict::Proceed
    });
    let mut taken = rig.handle.submit(job(0, 2, 30)).unwrap();
    give.send(rig.handle.clone()).unwrap();
    assert!(matches!(failed(&rest(&mut taken).await.1), Error::Unavailable(_)));
    let record = rig.end();
    assert_eq!((record.batches().len(), record.released().len()), (2, 1));
}

#[tokio::test]
async fn dropping_the_last_handle_finishes_what_was_taken() {
    let rig = rig(&limits(1), |_, _| Verdict::Proceed);
    let mut taken = rig.handle.submit(job(0, 2, 3)).unwrap();
    rig.end();
    assert!(matches!(rest(&mut taken).await.1, JobEvent::Finished(_)));
}

#[test]
fn every_metric_has_its_name_labels_and_value() {
    let text = metered(
        |batch, _| match batch.rows.len() {
            3 => Verdict::Fail(Error::Compute("scripted".into())),
            _ => Verdict::Proceed,
        },
        async |handle, _| {
            let mut two = handle.submit(job(0, 1, 2)).unwrap();
            rest(&mut two).await;
            let mut failing = handle.submit(job(0, 3, 1)).unwrap();
            rest(&mut failing).await;
        },
    );
    for line in [
        r#"flowmap_images_total{model="a@3",steps="asked"} 1"#,
        r#"flowmap_images_total{model="a@3",steps="overload"} 0"#,
        r#"flowmap_image_steps_sum{model="a@3"} 2"#,
        r#"flowmap_evaluations_pending{model="a@3"} 0"#,
        r#"flowmap_step_cap 256"#,
        r#"flowmap_kept_states_bytes 0"#,
        r#"flowmap_evaluations_total{model="a@3"} 2"#,
        r#"flowmap_images_cancelled_total{model="a@3",reason="error"} 3"#,
        r#"flowmap_images_cancelled_total{model="a@3",reason="cancelled"} 0"#,
        r#"flowmap_images_cancelled_total{model="a@3",reason="deadline"} 0"#,
        r#"flowmap_images_waiting{model="a@3"} 0"#,
        r#"flowmap_images_running{model="a@3"} 0"#,
        r#"flowmap_batch_rows_sum{model="a@3"} 2"#,
        r#"flowmap_batch_distinct_plans_sum{model="a@3"} 2"#,
        r#"flowmap_step_duration_seconds_count{model="a@3"} 2"#,
        r#"flowmap_queue_duration_seconds_count{model="a@3"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    for part in ["base", "per_row"] {
        assert!(
            text.contains(&format!(r#"flowmap_step_cost_seconds{{model="a@3",device="0",part="{part}"}}"#)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn two_devices_serve_one_queue_and_both_end_with_it() {
    let (handle, board) = channel(&catalogue(), &limits(1), 2, Arc::new(Instant::now));
    let worker = |board: crate::scheduler::Board| {
        let (engine, record) = Scripted::new(&catalogue(), |_| {
            std::thread::sleep(Duration::from_millis(1));
            Verdict::Proceed
        });
        (std::thread::spawn(move || run(board, Box::new(engine))), record)
    };
    let workers = [worker(board.clone()), worker(board)];
    handle.ready().await.unwrap();
    let mut ticket = handle.submit(job(0, 40, 2)).unwrap();
    let (images, end) = rest(&mut ticket).await;
    assert!(images.len() == 40 && matches!(end, JobEvent::Finished(_)));
    drop(handle);
    for (thread, record) in workers {
        thread.join().unwrap();
        assert!(record.batches().len() > 1, "each has worked");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_preview_only() {
    let ((here, arrived), (go, gate)) = (hand_over(), hand_over());
    let limits = Limits { preview_share: 1.0, ..limits(8) };
    let rig = rig(&limits, move |forward, _| {
        if forward == 5 {
            here.send(()).unwrap();
            gate();
        }
        Verdict::Proceed
    });
    let previews = Some(Vec::new().into());
    let mut ticket = rig.handle.submit(Job { previews, ..job(0, 2, 8) }).unwrap();
    // Five forwards have ended, and their previews were offered to a reader who has taken none.
    arrived();
    for image in 0..2 {
        let Some(JobEvent::Preview(preview)) = ticket.next().await else { panic!("no preview") };
        assert_eq!((preview.index, preview.evaluations), (image, 5));
    }
    go.send(()).unwrap();
    let mut images = 0;
    while let Some(event) = ticket.next().await {
        images += u32::from(matches!(event, JobEvent::Image(_)));
    }
    assert_eq!(images, 2);
    rig.end();
}
