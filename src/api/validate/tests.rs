//! Requests, right and wrong. The fixtures serve the whole room's tests.

mod ways;

use proptest::prelude::*;

use super::*;
use crate::domain::{Digest, Guidance, Initial, ModelId, Priority, TimePairs};

/// A model of 1 × 2 × 2 images with three classes.
pub(in crate::api) fn model() -> ModelInfo {
    ModelInfo {
        id: ModelId { name: "digits".into(), version: 1 },
        description: "Tiny digits".into(),
        architecture: "mlp".into(),
        parameters: 10,
        shape: vec![1, 2, 2],
        value_range: [-1.0, 1.0],
        noise_scale: 1.0,
        classes: ["zero", "one", "two"].map(String::from).to_vec(),
        guidance: Guidance::Input { max: 4.0 },
        time_pairs: TimePairs::Triangle,
        objective: "lmd".into(),
        content_hash: "00".into(),
        quality: None,
        grids: vec![],
    }
}

/// Points in the plane from a velocity field, without classes.
fn points() -> ModelInfo {
    ModelInfo {
        id: ModelId { name: "points".into(), version: 2 },
        shape: vec![2],
        classes: vec![],
        guidance: Guidance::None,
        time_pairs: TimePairs::Diagonal,
        ..model()
    }
}

fn square() -> ModelInfo {
    ModelInfo {
        id: ModelId { name: "square".into(), version: 1 },
        time_pairs: TimePairs::Square,
        guidance: Guidance::Baked { scale: 2.5 },
        ..model()
    }
}

pub(in crate::api) fn catalogue() -> Catalogue {
    Catalogue::new(Arc::new([model(), points(), square()]), &"digits".parse().unwrap()).unwrap()
}

pub(in crate::api) fn limits() -> Limits {
    Limits {
        max_count: 8,
        max_steps: 16,
        max_evaluations: 64,
        max_deadline: Duration::from_secs(10),
        max_request_bytes: 64,
    }
}

fn arrival() -> Arrival {
    Arrival { at: Instant::now(), timeout: None, tenant: "me".into(), seed: 77, id: 0xabc }
}

pub(super) fn tensor(shape: &[u32], values: &[f32]) -> v1::InitialState {
    let float32_data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    v1::InitialState { states: Some(v1::Tensor { shape: shape.to_vec(), float32_data }), ..Default::default() }
}

pub(super) fn accept(request: &v1::GenerateRequest) -> Parsed {
    parse(request, &catalogue(), &limits(), &arrival()).unwrap()
}

/// The fields that are refused, in order.
pub(super) fn refused(request: v1::GenerateRequest) -> Vec<String> {
    match parse(&request, &catalogue(), &limits(), &arrival()) {
        Err(Error::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn empty() -> v1::GenerateRequest {
    v1::GenerateRequest::default()
}

#[test]
fn an_empty_request_takes_every_default() {
    let at = Instant::now();
    let Parsed { job, encoding } = parse(&empty(), &catalogue(), &limits(), &Arrival { at, ..arrival() }).unwrap();
    assert_eq!((&*job.request_id, job.model, job.sampler), ("0000000000000abc", ModelKey(0), Sampler::FlowMap));
    assert_eq!((job.sources, job.guidance), (vec![Source::noise(77, 0, None)], 1.0));
    assert_eq!((job.grid, job.min_steps, job.previews), (TimeGrid::uniform(4), 4, None));
    assert_eq!((&*job.tenant, job.priority), ("me", Priority::Normal));
    assert_eq!((job.initial, job.deadline), (None, Some(at + Duration::from_secs(10))));
    assert_eq!(encoding, Encoding::Png);
    let points = accept(&v1::GenerateRequest { model: "points".into(), ..empty() });
    assert_eq!((points.job.sampler, points.encoding), (Sampler::Heun, Encoding::Float32));
    let square = accept(&v1::GenerateRequest { model: "square@1".into(), ..empty() });
    assert_eq!(square.job.guidance, 2.5);
}

#[test]
fn labels_are_spread_over_the_images() {
    let labels = |count, labels: &[i32]| {
        let asked = v1::GenerateRequest { count: Some(count), labels: labels.to_vec(), ..empty() };
        let sources = accept(&asked).job.sources;
        assert!((0..).zip(&sources).all(|(index, source)| (source.seed, source.index) == (77, index)));
        sources.into_iter().map(|source| source.label).collect::<Vec<_>>()
    };
    assert_eq!(labels(2, &[]), [None, None]);
    assert_eq!(labels(2, &[1]), [Some(1), Some(1)]);
    assert_eq!(labels(3, &[2, -1, 0]), [Some(2), None, Some(0)]);
}

#[test]
fn the_shortest_deadline_holds() {
    let at = Instant::now();
    let wait = |deadline_ms, timeout_ms: Option<u64>| {
        let arrival = Arrival { at, timeout: timeout_ms.map(Duration::from_millis), ..arrival() };
        let request = v1::GenerateRequest { deadline_ms, ..empty() };
        let parsed = parse(&request, &catalogue(), &limits(), &arrival).unwrap();
        (parsed.job.deadline.unwrap() - at).as_millis()
    };
    assert_eq!(
        [
            wait(None, None),
            wait(Some(20), None),
            wait(None, Some(30)),
            wait(Some(20), Some(30)),
            wait(Some(u32::MAX), None)
        ],
        [10_000, 20, 30, 20, 10_000]
    );
}

#[test]
fn fewer_steps_and_previews_are_for_flow_maps() {
    let previews = |evaluations: &[u32]| Some(v1::Previews { evaluations: evaluations.to_vec() });
    let asked = v1::GenerateRequest {
        min_steps: Some(2),
        previews: previews(&[3, 1, 3]),
        priority: v1::Priority::High.into(),
        ..empty()
    };
    let job = accept(&asked).job;
    assert_eq!((job.min_steps, job.previews.as_deref(), job.priority), (2, Some(&[1, 3][..]), Priority::High));
    assert_eq!(
        accept(&v1::GenerateRequest { previews: previews(&[]), ..empty() }).job.previews.as_deref(),
        Some(&[][..])
    );
    let heun = || v1::GenerateRequest { sampler: v1::Sampler::Heun.into(), ..empty() };
    assert_eq!(accept(&v1::GenerateRequest { min_steps: Some(4), ..heun() }).job.min_steps, 4);
    for (request, want) in [
        (v1::GenerateRequest { min_steps: Some(0), ..empty() }, "min_steps"),
        (v1::GenerateRequest { min_steps: Some(5), ..empty() }, "min_steps"),
        (v1::GenerateRequest { min_steps: Some(3), ..heun() }, "min_steps"),
        (v1::GenerateRequest { model: "points".into(), min_steps: Some(1), ..empty() }, "min_steps"),
        (v1::GenerateRequest { previews: previews(&[]), ..heun() }, "previews"),
        (v1::GenerateRequest { previews: previews(&[1, 4]), ..empty() }, "previews.evaluations[1]"),
        (v1::GenerateRequest { previews: previews(&[0]), ..empty() }, "previews.evaluations[0]"),
        (v1::GenerateRequest { previews: previews(&[1]), steps: Some(1), ..empty() }, "previews.evaluations[0]"),
        (v1::GenerateRequest { previews: previews(&[1; 17]), ..empty() }, "previews.evaluations"),
        (v1::GenerateRequest { priority: 4, ..empty() }, "priority"),
    ] {
        assert_eq!(refused(request.clone()), [want], "{request:?}");
    }
}

#[test]
fn initial_states_are_shared_or_per_image() {
    let shared = v1::GenerateRequest {
        count: Some(2),
        initial_state: Some(v1::InitialState { time: 0.5, ..tensor(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]) }),
        ..empty()
    };
    let job = accept(&shared).job;
    assert_eq!(job.initial, Some(Initial { states: [1.0, 2.0, 3.0, 4.0].into(), noised_to: None }));
    assert_eq!(job.grid, TimeGrid::uniform_from(0.5, 4));
    let each = v1::GenerateRequest { initial_state: Some(tensor(&[2, 1, 2, 2], &[0.5; 8])), ..shared };
    assert_eq!(accept(&each).job.initial.map(|initial| initial.states.len()), Some(8));
}

#[test]
fn a_square_model_encodes() {
    let request = |model: &str| v1::GenerateRequest {
        model: model.into(),
        time_grid: Some(v1::TimeGrid { times: vec![1.0, 0.5, 0.0] }),
        initial_state: Some(v1::InitialState { time: 1.0, ..tensor(&[1, 2, 2], &[0.0; 4]) }),
        ..empty()
    };
    assert!(!accept(&request("square")).job.grid.is_rising());
    assert_eq!(refused(request("digits")), ["sampler"]);
}

#[test]
fn every_wrong_field_is_named() {
    let nan_state = v1::InitialState { time: 1.0, ..tensor(&[1, 2, 2], &[0.0, f32::NAN, 0.0, 0.0]) };
    let request = v1::GenerateRequest {
        model: "digits".into(),
        count: Some(9),
        steps: Some(17),
        time_grid: None,
        sampler: 9,
        labels: vec![3],
        guidance: Some(f32::NAN),
        seed: None,
        initial_state: Some(nan_state),
        output_encoding: -1,
        deadline_ms: Some(0),
        request_id: "tab\t".into(),
        ..empty()
    };
    let want = [
        "request_id",
        "deadline_ms",
        "count",
        "steps",
        "initial_state.time",
        "sampler",
        "output_encoding",
        "guidance",
        "labels[0]",
        "initial_state.states.float32_data",
    ];
    assert_eq!(refused(request), want);
}

#[test]
fn each_field_is_judged() {
    let times = |times: &[f64]| Some(v1::TimeGrid { times: times.to_vec() });
    let state = |shape: &[u32], n: usize| Some(tensor(shape, &vec![0.0; n]));
    let points = || v1::GenerateRequest { model: "points".into(), ..empty() };
    let at = |time| Some(v1::InitialState { time, ..tensor(&[1, 2, 2], &[0.0; 4]) });
    let field = "initial_state.states.shape";
    for (request, want) in [
        (v1::GenerateRequest { model: "digits@x".into(), count: Some(0), ..empty() }, &["model", "count"][..]),
        (v1::GenerateRequest { model: "m".repeat(300), ..empty() }, &["model"]),
        (v1::GenerateRequest { model: "m\n2026-01-01 INFO forged".into(), ..empty() }, &["model"]),
        (v1::GenerateRequest { count: Some(8), steps: Some(16), ..empty() }, &["count"]),
        (v1::GenerateRequest { steps: Some(0), ..empty() }, &["steps"]),
        (v1::GenerateRequest { steps: Some(2), time_grid: times(&[0.0, 1.0]), ..empty() }, &["steps"]),
        (v1::GenerateRequest { time_grid: times(&[]), ..empty() }, &["time_grid.times"]),
        (v1::GenerateRequest { time_grid: times(&[0.0, 0.5, 0.5]), ..empty() }, &["time_grid.times"]),
        (v1::GenerateRequest { time_grid: times(&[0.0, f64::NAN]), ..empty() }, &["time_grid.times"]),
        (v1::GenerateRequest { time_grid: times(&[0.0; 100]), ..empty() }, &["time_grid.times"]),
        (v1::GenerateRequest { time_grid: times(&[0.1, 1.0]), ..empty() }, &["time_grid.times[0]"]),
        (
            v1::GenerateRequest { time_grid: times(&[0.1, 1.0]), initial_state: at(0.2), ..empty() },
            &["time_grid.times[0]"],
        ),
        (v1::GenerateRequest { initial_state: at(f64::NAN), ..empty() }, &["initial_state.time"]),
        (v1::GenerateRequest { initial_state: at(-0.5), ..empty() }, &["initial_state.time"]),
        (
            v1::GenerateRequest { steps: Some(16), initial_state: at(1.0_f64.next_down()), ..empty() },
            &["initial_state.time"],
        ),
        (v1::GenerateRequest { initial_state: state(&[4], 4), ..empty() }, &[field]),
        (v1::GenerateRequest { initial_state: state(&[2, 1, 2, 2], 8), ..empty() }, &[field]),
        (v1::GenerateRequest { initial_state: state(&[u32::MAX; 4], 0), ..empty() }, &[field]),
        (
            v1::GenerateRequest { initial_state: state(&[1, 2, 2], 3), ..empty() },
            &["initial_state.states.float32_data"],
        ),
        (
            v1::GenerateRequest { initial_state: Some(tensor(&[1, 2, 2], &[0.0, 0.0, 0.0, -3e38])), ..empty() },
            &["initial_state.states.float32_data"],
        ),
        (
            v1::GenerateRequest { initial_state: Some(v1::InitialState::default()), ..empty() },
            &["initial_state.states"],
        ),
        (v1::GenerateRequest { count: Some(3), labels: vec![0, 1], ..empty() }, &["labels"]),
        (v1::GenerateRequest { labels: vec![-2], ..empty() }, &["labels[0]"]),
        (v1::GenerateRequest { guidance: Some(4.5), ..empty() }, &["guidance"]),
        (v1::GenerateRequest { guidance: Some(f32::INFINITY), ..empty() }, &["guidance"]),
        (v1::GenerateRequest { request_id: "x".repeat(129), ..empty() }, &["request_id"]),
        (v1::GenerateRequest { labels: vec![0], ..points() }, &["labels[0]"]),
        (v1::GenerateRequest { sampler: v1::Sampler::FlowMap.into(), ..points() }, &["sampler"]),
        (v1::GenerateRequest { output_encoding: v1::OutputEncoding::Png.into(), ..points() }, &["output_encoding"]),
        (v1::GenerateRequest { guidance: Some(1.5), ..points() }, &["guidance"]),
    ] {
        assert_eq!(refused(request.clone()), want, "{request:?}");
    }
}

#[test]
fn an_unknown_model_is_not_found() {
    let request = v1::GenerateRequest { model: "letters".into(), ..empty() };
    assert!(matches!(parse(&request, &catalogue(), &limits(), &arrival()), Err(Error::NotFound(_))));
}

/// Numbers near every bound, and any other.
fn f64s() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.5), Just(1.0), Just(1.0_f64.next_down()), Just(f64::NAN), any::<f64>(), 0.0..1.0]
}

fn states() -> impl Strategy<Value = v1::InitialState> {
    let shape = prop_oneof![Just(vec![1, 2, 2]), Just(vec![2, 1, 2, 2]), prop::collection::vec(any::<u32>(), 0..5)];
    let data = prop_oneof![Just(vec![0; 16]), Just(vec![0; 32]), prop::collection::vec(any::<u8>(), 0..64)];
    (shape, data, f64s(), prop::bool::weighted(0.9)).prop_map(|(shape, data, time, there)| {
        let tensor = v1::Tensor { shape, float32_data: data.into() };
        v1::InitialState { states: there.then_some(tensor), time, add_noise: time < 0.5 }
    })
}

/// Receipts near what can be continued, and any other.
fn receipts() -> impl Strategy<Value = v1::Receipt> {
    let mostly = |good: &'static str| prop_oneof![9 => Just(good.to_owned()), 1 => ".{0,8}"];
    let times = prop_oneof![Just(vec![0.0, 1.0]), Just(vec![0.0, 0.5, 1.0]), prop::collection::vec(f64s(), 0..20)];
    let state_digest = Just(Digest::of(&[0; 16]).as_bytes().to_vec());
    let digests = prop_oneof![Just(vec![]), state_digest, prop::collection::vec(any::<u8>(), 0..40)];
    let made = (any::<u64>(), any::<u32>(), prop_oneof![-1..3, any::<i32>()], prop_oneof![Just(1.0), any::<f32>()]);
    let model = prop_oneof![Just("digits@1".to_owned()), Just("square@1".to_owned()), mostly("digits")];
    (model, mostly("00"), made, prop_oneof![Just(1), 0..5], times, digests).prop_map(
        |(model, content_hash, (seed, index, label, guidance), sampler, times, digest)| v1::Receipt {
            model,
            content_hash,
            seed,
            index,
            label,
            guidance,
            sampler,
            times,
            initial_state_noised: seed % 4 == 0,
            gamma: (sampler == 4).then_some(guidance),
            initial_state_digest: digest.into(),
            ..Default::default()
        },
    )
}

/// What a request says of its images' way.
fn anytime() -> impl Strategy<Value = v1::GenerateRequest> {
    let steps = || prop_oneof![0u32..10, any::<u32>()];
    let evaluations = prop::collection::vec(steps(), 0..20);
    let previews = prop::option::weighted(0.3, evaluations.prop_map(|evaluations| v1::Previews { evaluations }));
    let continue_from = prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(receipts(), 1..10)];
    let bare = any::<bool>();
    (prop::option::weighted(0.3, steps()), prop_oneof![0..5, any::<i32>()], previews, continue_from, bare).prop_map(
        |(min_steps, priority, previews, continue_from, bare)| match bare {
            true => v1::GenerateRequest { continue_from, ..Default::default() },
            false => v1::GenerateRequest { min_steps, priority, previews, continue_from, ..Default::default() },
        },
    )
}

prop_compose! {
    fn requests()(
        model in prop_oneof![Just(""), Just("points"), Just("square"), Just("@"), Just("other")],
        count in prop::option::of(prop_oneof![0u32..10, any::<u32>()]),
        steps in prop::option::of(prop_oneof![0u32..20, any::<u32>()]),
        times in prop::option::weighted(0.3, prop::collection::vec(f64s(), 0..20)),
        sampler in prop_oneof![0..5, any::<i32>()],
        gamma in prop::option::weighted(0.2, prop_oneof![0.0f32..1.0, any::<f32>()]),
        labels in prop::collection::vec(prop_oneof![-2..4, any::<i32>()], 0..4),
        guidance in prop::option::weighted(0.3, prop_oneof![0.0f32..5.0, any::<f32>()]),
        initial_state in prop::option::weighted(0.4, states()),
        output_encoding in prop_oneof![0..5, any::<i32>()],
        deadline_ms in prop::option::of(any::<u32>()),
        request_id in "[a-z]{0,8}|.{0,3}",
        seed in prop::option::of(any::<u64>()),
        anytime in anytime(),
        is_bare in any::<bool>(),
    ) -> v1::GenerateRequest {
        let time_grid = times.map(|times| v1::TimeGrid { times });
        let model = model.into();
        if is_bare {
            return v1::GenerateRequest { steps, initial_state, deadline_ms: None, ..anytime };
        }
        v1::GenerateRequest {
            model, count, steps, time_grid, sampler, labels, guidance, seed, initial_state, output_encoding,
            deadline_ms, request_id, gamma, ..anytime
        }
    }
}

/// The times that an image visits.
fn way(job: &Job, source: &Source) -> TimeGrid {
    match source.walked.as_deref() {
        None => job.grid.clone(),
        Some(walked) => {
            let way = job.grid.after(walked).unwrap();
            assert!(walked.len() > 1 && way.times().starts_with(walked));
            way
        }
    }
}

/// What a job promises to the rooms behind this one.
fn check_job(request: &v1::GenerateRequest, Parsed { job, encoding }: &Parsed) {
    let (catalogue, limits) = (catalogue(), limits());
    let info = catalogue.info(job.model);
    let count = job.sources.len();
    let asked = match request.continue_from.len() {
        0 => request.count.unwrap_or(1) as usize,
        receipts => receipts,
    };
    assert!(count == asked && count <= limits.max_count as usize);
    let start = request.initial_state.as_ref().map_or(0.0, |state| state.time);
    let ways: Vec<TimeGrid> = job.sources.iter().map(|source| way(job, source)).collect();
    for way in &ways {
        assert!(TimeGrid::new(way.times().to_vec()).is_ok() && way.steps() <= limits.max_steps as usize, "{way:?}");
        assert!(info.time_pairs.check(job.sampler, way).is_ok() && way.times()[0] == start);
    }
    let evaluations: usize = ways.iter().map(|way| job.sampler.plan(way).len()).sum();
    assert!(evaluations as u64 <= limits.max_evaluations && info.guidance.allows(job.guidance));
    assert!(job.sources.iter().filter_map(|s| s.label).all(|label| (label as usize) < info.classes.len()));
    assert_eq!(job.initial.is_some(), request.initial_state.is_some());
    let longest = ways.iter().map(TimeGrid::steps).max().unwrap() as u32;
    assert!((1..=longest).contains(&job.min_steps));
    assert!(job.sampler.jumps() || (job.min_steps == longest && job.previews.is_none()));
    let previews = job.previews.as_deref().unwrap_or_default();
    assert!(previews.is_sorted_by(|a, b| a < b) && previews.iter().all(|wanted| (1..longest).contains(wanted)));
    if let Some(Initial { states, noised_to }) = &job.initial {
        assert!(noised_to.is_none_or(|time| time == start));
        assert!([1, count].contains(&(states.len() / info.elements())) && states.len() % info.elements() == 0);
        assert!(states.iter().all(|x| x.abs() <= 1e6));
    }
    assert!(*encoding != Encoding::Png || info.is_image());
    assert!(!job.request_id.is_empty() && job.deadline.is_some());
}

/// Every field of the contract, without the indices.
const FIELDS: &[&str] = &[
    "model",
    "count",
    "steps",
    "time_grid.times",
    "sampler",
    "gamma",
    "labels",
    "guidance",
    "initial_state.time",
    "initial_state.states",
    "initial_state.states.shape",
    "initial_state.states.float32_data",
    "output_encoding",
    "deadline_ms",
    "request_id",
    "min_steps",
    "priority",
    "previews",
    "previews.evaluations",
    "seed",
    "continue_from",
    "continue_from.model",
    "continue_from.content_hash",
    "continue_from.label",
    "continue_from.guidance",
    "continue_from.sampler",
    "continue_from.gamma",
    "continue_from.initial_state_noised",
    "continue_from.times",
    "continue_from.initial_state_digest",
];

proptest! {
    #[test]
    fn any_request_is_a_sound_job_or_names_real_fields(request in requests()) {
        match parse(&request, &catalogue(), &limits(), &arrival()) {
            Ok(parsed) => check_job(&request, &parsed),
            Err(Error::NotFound(_)) => {
                let first = request.continue_from.first().map_or("", |receipt| receipt.model.as_str());
                assert!(request.model == "other" || !["", "digits@1", "square@1"].contains(&first));
            }
            Err(Error::Invalid(violations)) => {
                assert!(!violations.is_empty());
                for violation in violations {
                    let name = |part: &str| part.split_once(']').map_or(part, |(_, rest)| rest).to_owned();
                    let field: String = violation.field.split('[').map(name).collect();
                    assert!(FIELDS.contains(&field.as_str()), "{field}");
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
}
