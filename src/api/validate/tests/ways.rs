//! Samplers, time grids and beginnings against what models know.

use super::*;

fn shortcut() -> ModelInfo {
    let id = ModelId { name: "shortcut".into(), version: 1 };
    ModelInfo { id, time_pairs: TimePairs::Dyadic { levels: 3 }, ..model() }
}

fn consistency() -> ModelInfo {
    let id = ModelId { name: "consistency".into(), version: 1 };
    ModelInfo { id, time_pairs: TimePairs::End, ..model() }
}

fn read(request: &v1::GenerateRequest) -> Result<Job> {
    let models = Arc::new([shortcut(), consistency(), model(), square()]);
    let catalogue = Catalogue::new(models, &"shortcut".parse().unwrap()).unwrap();
    parse(request, &catalogue, &limits(), &arrival()).map(|parsed| parsed.job)
}

/// The only violation of a request: its field and its description.
fn violation(request: &v1::GenerateRequest) -> (String, String) {
    match read(request) {
        Err(Error::Invalid(violations)) if violations.len() == 1 => {
            let Violation { field, description } = violations.into_iter().next().unwrap();
            (field, description)
        }
        other => panic!("{other:?}"),
    }
}

fn of(model: &str, steps: u32) -> v1::GenerateRequest {
    v1::GenerateRequest { model: model.into(), steps: Some(steps), ..empty() }
}

fn gamma(model: &str, gamma: Option<f32>) -> v1::GenerateRequest {
    v1::GenerateRequest { sampler: v1::Sampler::Gamma.into(), gamma, ..of(model, 3) }
}

fn times(model: &str, times: &[f64]) -> v1::GenerateRequest {
    v1::GenerateRequest { steps: None, time_grid: Some(v1::TimeGrid { times: times.to_vec() }), ..of(model, 0) }
}

#[test]
fn what_a_model_knows_is_accepted() {
    assert_eq!(read(&of("consistency", 3)).unwrap().sampler, Sampler::CONSISTENCY);
    assert_eq!(read(&gamma("digits", None)).unwrap().sampler, Sampler::CONSISTENCY);
    assert_eq!(read(&gamma("digits", Some(0.25))).unwrap().sampler, "gamma:0.25".parse().unwrap());
    let jump = v1::GenerateRequest { sampler: v1::Sampler::FlowMap.into(), ..of("consistency", 1) };
    assert_eq!(read(&jump).unwrap().sampler, Sampler::FlowMap);
    assert_eq!(read(&of("shortcut", 8)).unwrap().sampler, Sampler::FlowMap);
    assert!(read(&times("shortcut", &[0.0, 0.5, 0.75, 1.0])).is_ok());
    let heun = v1::GenerateRequest { sampler: v1::Sampler::Heun.into(), ..of("shortcut", 3) };
    assert!(read(&heun).is_ok());
}

#[test]
fn what_a_model_does_not_know_is_named_with_what_it_does() {
    let power = "steps must be a power of two up to 8";
    let only_end = "only jumps to t = 1: use the sampler consistency, which is gamma 1";
    let flow_map = v1::GenerateRequest { sampler: v1::Sampler::FlowMap.into(), ..of("consistency", 2) };
    let heun = v1::GenerateRequest { sampler: v1::Sampler::Heun.into(), ..of("consistency", 2) };
    let falling = v1::GenerateRequest {
        sampler: v1::Sampler::Gamma.into(),
        initial_state: Some(v1::InitialState { time: 1.0, ..tensor(&[1, 2, 2], &[0.0; 4]) }),
        ..times("square", &[1.0, 0.5, 0.0])
    };
    for (request, field, told) in [
        (of("shortcut", 3), "steps", power),
        (of("shortcut", 16), "steps", power),
        (times("shortcut", &[0.0, 0.25, 0.75, 1.0]), "time_grid.times", power),
        (gamma("shortcut", Some(0.5)), "sampler", "; possible: flow-map, euler, heun, consistency"),
        (flow_map, "sampler", only_end),
        (heun, "sampler", only_end),
        (gamma("consistency", Some(0.5)), "sampler", only_end),
        (gamma("digits", Some(-0.5)), "gamma", "is -0.5, must be 0 to 1"),
        (v1::GenerateRequest { gamma: Some(0.5), ..of("digits", 2) }, "gamma", "is for SAMPLER_GAMMA alone"),
        (falling, "sampler", "cannot walk a falling time grid"),
    ] {
        let (at, description) = violation(&request);
        assert!(at == field && description.contains(told), "{at}: {description}");
    }
    let (_, description) = violation(&times("shortcut", &[0.0, 0.25, 0.75, 1.0]));
    assert!(description.contains("(0.25, 0.75)"), "the first illegal pair: {description}");
}

#[test]
fn fewest_steps_are_such_as_the_model_has() {
    let fewest =
        |model, min_steps| read(&v1::GenerateRequest { min_steps: Some(min_steps), ..of(model, 8) }).unwrap().min_steps;
    assert_eq!([1, 2, 3, 5, 8].map(|steps| fewest("shortcut", steps)), [1, 2, 4, 8, 8]);
    assert_eq!([1, 3].map(|steps| fewest("consistency", steps)), [1, 3]);
    let previewed = v1::GenerateRequest { previews: Some(v1::Previews::default()), ..of("consistency", 8) };
    assert!(read(&previewed).unwrap().previews.is_some());
}

#[test]
fn images_are_continued_in_jumps_that_the_model_knows() {
    let receipt = |times: &[f64], sampler: v1::Sampler, gamma| v1::Receipt {
        model: "shortcut@1".into(),
        content_hash: "00".into(),
        label: -1,
        guidance: 1.0,
        sampler: sampler.into(),
        gamma,
        times: times.to_vec(),
        ..Default::default()
    };
    let on = |receipt, steps| v1::GenerateRequest { continue_from: vec![receipt], ..of("", steps) };
    let half = || receipt(&[0.0, 0.5, 1.0], v1::Sampler::FlowMap, None);
    assert_eq!(read(&on(half(), 4)).unwrap().grid.times(), [0.0, 0.5, 0.75, 1.0]);
    let (field, description) = violation(&on(half(), 3));
    assert!(field == "continue_from[0].times" && description.contains("a power of two"), "{description}");
    let fresh = |gamma| receipt(&[0.0, 0.5, 1.0], v1::Sampler::Gamma, gamma);
    assert_eq!(read(&on(fresh(Some(1.0)), 4)).unwrap().sampler, Sampler::CONSISTENCY);
    assert_eq!(violation(&on(fresh(Some(0.5)), 4)).0, "continue_from[0].sampler");
    assert_eq!(violation(&on(fresh(Some(2.0)), 4)).0, "continue_from[0].gamma");
    let excluded = v1::GenerateRequest { gamma: Some(1.0), sampler: v1::Sampler::Gamma.into(), ..on(half(), 4) };
    let Err(Error::Invalid(violations)) = read(&excluded) else { panic!("accepted") };
    assert_eq!(violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), ["sampler", "gamma"]);
}

#[test]
fn data_is_told_from_states() {
    let states = |add_noise| v1::InitialState { time: 0.5, add_noise, ..tensor(&[1, 2, 2], &[0.5; 4]) };
    let asked = |add_noise| v1::GenerateRequest { initial_state: Some(states(add_noise)), ..of("digits", 2) };
    assert_eq!(read(&asked(true)).unwrap().initial.unwrap().noised_to, Some(0.5));
    assert_eq!(read(&asked(false)).unwrap().initial.unwrap().noised_to, None);
    let receipt = v1::Receipt {
        model: "digits@1".into(),
        content_hash: "00".into(),
        label: -1,
        guidance: 1.0,
        sampler: v1::Sampler::FlowMap.into(),
        times: vec![0.5, 0.75, 1.0],
        initial_state_digest: Digest::of_numbers(&[0.5; 4]).as_bytes().to_vec().into(),
        initial_state_noised: true,
        ..Default::default()
    };
    let on = |add_noise| v1::GenerateRequest {
        model: String::new(),
        continue_from: vec![receipt.clone()],
        steps: Some(4),
        ..asked(add_noise)
    };
    assert!(read(&on(true)).is_ok());
    assert_eq!(violation(&on(false)).0, "continue_from[0].initial_state_noised");
}
