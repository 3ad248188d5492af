//! Objectives on the Gaussian flow: they vanish at the exact map, or have their floor there, and push towards it.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::consistency::Consistency;
use super::emd::Emd;
use super::esd::Esd;
use super::flow_matching::FlowMatching;
use super::fmm::Fmm;
use super::lmd::Lmd;
use super::lsd::Lsd;
use super::mean_flow::MeanFlow;
use super::progressive::{Progressive, Windows};
use super::psd::{Midpoint, Psd};
use super::trajectories::Trajectories;
use super::{Objective, Student};
use crate::flow::map::jump_and_dt;
use crate::flow::noise::Stream;
use crate::flow::{Dual, FlowMap, GaussianFlow};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: 0.4, data: 0.5 };
const TRIANGLE: Pairs = Pairs::Triangle { diagonal: 0.0, from_noise: 0.3 };

/// Rows of the Gaussian flow, `(count, 1)` in f64, at times drawn from `pairs`.
fn gaussian_rows(pairs: Pairs, count: usize) -> Result<Rows> {
    let mut stream = Stream::new(9, 0, 5);
    let times: Vec<_> = (0..count).map(|row| pairs.draw(row, count, || stream.uniform())).collect();
    let normal = |index: u32, mean: f64, deviation: f64| {
        let mut values = vec![0.0; count];
        Stream::new(9, index, 5).fill_normal(&mut values);
        Tensor::from_vec(values, (count, 1), &Device::Cpu)?.to_dtype(DType::F64)?.affine(deviation, mean)
    };
    let numbers =
        |f: &mut dyn FnMut(usize) -> f64| Tensor::from_vec((0..count).map(f).collect::<Vec<_>>(), count, &Device::Cpu);
    Ok(Rows {
        x0: normal(1, 0.0, FLOW.noise)?,
        x1: normal(2, FLOW.mean, FLOW.data)?,
        s: numbers(&mut |row| times[row].0)?,
        t: numbers(&mut |row| times[row].1)?,
        u: numbers(&mut |_| stream.uniform())?,
        labels: Tensor::zeros(count, DType::U32, &Device::Cpu)?,
        weight: None,
        diagonal: times.iter().all(|(s, t)| s == t),
    })
}

/// A network that gradients go through, or not: the flow has no weights.
fn student(net: &dyn FlowMap) -> Student<'_> {
    Student { live: net, stopped: net, before: Some(net) }
}

fn largest(residual: &Tensor) -> Result<f64> {
    residual.abs()?.max_all()?.to_scalar()
}

/// What has its zero at the flow map, with how far from it the numbers may be: where the other side is simulated, or a
/// difference, by the error of that.
fn with_zeros() -> Vec<(Box<dyn Objective>, f64)> {
    let teacher = || Box::new(FLOW) as Box<dyn FlowMap>;
    let (pairs, exact) = (TRIANGLE, 1e-12);
    let progressive = |windows| Progressive { teacher: teacher(), stage_steps: 10, windows, diagonal: 0.0 };
    let psd = |midpoint, pairs| Psd { name: "psd", midpoint, pairs, shortest: 0.0 };
    vec![
        (Box::new(Lmd { teacher: teacher(), pairs, stop_gradient: false }), exact),
        (Box::new(Lmd { teacher: teacher(), pairs, stop_gradient: true }), exact),
        (Box::new(Emd { teacher: teacher(), pairs, stop_gradient: false }), exact),
        (Box::new(Emd { teacher: teacher(), pairs, stop_gradient: true }), exact),
        (Box::new(Lsd { pairs }), exact),
        (Box::new(Esd { pairs }), exact),
        (Box::new(psd(Midpoint::Half, pairs)), exact),
        (Box::new(psd(Midpoint::Uniform, pairs)), exact),
        (Box::new(psd(Midpoint::Half, Pairs::Dyadic { diagonal: 0.0, coarsest: 0, finest: 4 })), exact),
        (Box::new(progressive(Windows::Doubling { first: 0.25 })), exact),
        (Box::new(Trajectories { teacher: teacher(), steps: 64, pairs }), 1e-3),
        (Box::new(Consistency { teacher: Some(teacher()), points: 256 }), 1e-3),
    ]
}

#[test]
fn they_vanish_at_the_exact_flow_map_alone() -> Result<()> {
    for (objective, error) in with_zeros() {
        for step in [0, 15, 1000] {
            let rows = gaussian_rows(objective.pairs(step), 200)?;
            let residual = largest(&objective.residual(&student(&FLOW), &rows)?)?;
            assert!(residual < error, "{} at step {step}: {residual}", objective.name());
            // A map that is right on the diagonal only.
            let bent = Bent(Var::new(&[0.3f64], &Device::Cpu)?);
            let residual = objective.residual(&student(&bent), &rows)?.abs()?.mean_all()?.to_scalar::<f64>()?;
            assert!(residual > 10.0 * error && residual > 1e-3, "{}: {residual}", objective.name());
        }
    }
    Ok(())
}

/// On a halving grid only the shortest jump is made of Euler's steps, with their error.
#[test]
fn halving_grids_begin_with_steps_of_euler() -> Result<()> {
    let windows = Windows::Halving { finest: 3 };
    let objective = Progressive { teacher: Box::new(FLOW), stage_steps: 10, windows, diagonal: 0.0 };
    let error = |coarsest, finest| {
        let rows = gaussian_rows(Pairs::Dyadic { diagonal: 0.0, coarsest, finest }, 200)?;
        largest(&objective.residual(&student(&FLOW), &rows)?)
    };
    assert!(error(0, 2)? < 1e-12 && error(3, 3)? > 1e-3);
    Ok(())
}

/// The exact flow map, wrong off the diagonal by a weight times `t - s`.
struct Bent(Var);

impl FlowMap for Bent {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let error = t.sub(s)?.per_row(x)?.mul(&Dual::constant(self.0.as_tensor()))?;
        FLOW.velocity(x, s, t, labels)?.add(&error)
    }
}

/// The same without gradients.
struct Still<'a>(&'a Bent);

impl FlowMap for Still<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let v = self.0.velocity(x, s, t, labels)?;
        Ok(Dual { primal: v.primal.detach(), tangent: v.tangent.map(|v| v.detach()) })
    }
}

/// Descending from either side leads to the flow map, also where part of the gradient is stopped and where the residual
/// is zero in the mean only.
#[test]
fn their_gradients_lead_to_it() -> Result<()> {
    let (pairs, points) = (TRIANGLE, 32);
    let mut objectives: Vec<Box<dyn Objective>> = with_zeros().into_iter().map(|(objective, _)| objective).collect();
    objectives.push(Box::new(MeanFlow { pairs, power: 0.0, offset: 1.0 }));
    objectives.push(Box::new(MeanFlow { pairs, power: 1.0, offset: 1e-2 }));
    objectives.push(Box::new(Fmm { pairs: Pairs::Square { diagonal: 0.0 } }));
    objectives.push(Box::new(Consistency { teacher: None, points }));
    for objective in objectives {
        for weight in [-0.4, 0.4] {
            let net = Bent(Var::new(&[weight], &Device::Cpu)?);
            let still = Still(&net);
            let rows = gaussian_rows(objective.pairs(1000), 4000)?;
            let before = Some(&FLOW as &dyn FlowMap);
            let residual = objective.residual(&Student { live: &net, stopped: &still, before }, &rows)?;
            let gradients = residual.sqr()?.mean_all()?.backward()?;
            let slope = gradients.get(&net.0).unwrap().get(0)?.to_scalar::<f64>()?;
            assert!(slope * weight > 1e-3, "{} at {weight}: {slope}", objective.name());
        }
    }
    Ok(())
}

/// `E Var(İ | I) = s₀² s₁² / S_t²` over the rows' times.
fn floor(times: &Tensor) -> Result<f64> {
    let times = times.to_vec1::<f64>()?;
    let variance = |t: &f64| (FLOW.noise * FLOW.data / FLOW.deviation(*t)).powi(2);
    Ok(times.iter().map(variance).sum::<f64>() / times.len() as f64)
}

#[test]
fn what_learns_from_data_alone_has_its_floor_at_the_exact_flow() -> Result<()> {
    let fmm = Fmm { pairs: Pairs::Square { diagonal: 0.0 } };
    let objectives: [(&dyn Objective, Pairs); 2] = [(&FlowMatching, Pairs::Diagonal), (&fmm, fmm.pairs)];
    for (objective, pairs) in objectives {
        let rows = gaussian_rows(pairs, 100_000)?;
        let loss = |flow: &GaussianFlow| {
            let residual = objective.residual(&student(flow), &rows)?;
            residual.sqr()?.flatten_from(1)?.mean(1)?.mean_all()?.to_scalar::<f64>()
        };
        let (exact, floor) = (loss(&FLOW)?, floor(&rows.t)?);
        assert!((exact / floor - 1.0).abs() < 0.02, "{}: {exact} {floor}", objective.name());
        for other in [GaussianFlow { data: 0.6, ..FLOW }, GaussianFlow { mean: 0.3, ..FLOW }] {
            assert!(loss(&other)? > exact, "{}", objective.name());
        }
    }
    Ok(())
}

/// Given `I_s` its residual is zero in the mean: it does not depend on anything that `I_s` tells.
#[test]
fn mean_flow_is_right_in_the_mean() -> Result<()> {
    let objective = MeanFlow { pairs: TRIANGLE, power: 0.0, offset: 1.0 };
    let rows = gaussian_rows(TRIANGLE, 200_000)?;
    let x = rows.interpolant(&rows.s)?;
    let along = |flow: &GaussianFlow, feature: &Tensor| -> Result<f64> {
        (objective.residual(&student(flow), &rows)? * feature)?.mean_all()?.to_scalar()
    };
    for feature in [x.ones_like()?, x.clone(), x.sqr()?] {
        assert!(along(&FLOW, &feature)?.abs() < 0.01);
    }
    assert!(along(&GaussianFlow { mean: 0.6, ..FLOW }, &x.ones_like()?)?.abs() > 0.05);
    Ok(())
}

/// On the diagonal every objective asks for the velocity, the teacher's or the interpolant's.
#[test]
fn the_diagonal_is_the_velocity() -> Result<()> {
    let rows = gaussian_rows(Pairs::Diagonal, 100)?;
    let matching = FlowMatching.residual(&student(&FLOW), &rows)?;
    for (objective, _) in with_zeros().into_iter().filter(|(objective, _)| objective.pairs(0) != Pairs::End) {
        let residual = objective.residual(&student(&FLOW), &rows)?;
        let distils = largest(&residual)? < 1e-12;
        assert!(distils || largest(&(residual - &matching)?)? < 1e-12, "{}", objective.name());
    }
    Ok(())
}

/// With the gradient stopped, only the derivative of the student's map is moved; without, the teacher's argument too.
#[test]
fn the_gradient_through_the_teacher_can_be_stopped() -> Result<()> {
    let net = Bent(Var::new(&[0.8f64], &Device::Cpu)?);
    let rows = gaussian_rows(TRIANGLE, 50)?;
    let slope = |residual: Tensor| -> Result<f64> {
        residual.sum_all()?.backward()?.get(&net.0).unwrap().get(0)?.to_scalar::<f64>()
    };
    let lmd = |stop_gradient| Lmd { teacher: Box::new(FLOW), pairs: TRIANGLE, stop_gradient };
    let of_rate = slope(jump_and_dt(&net, &rows.interpolant(&rows.s)?, &rows.s, &rows.t, &rows.labels)?.1)?;
    assert!((slope(lmd(true).residual(&student(&net), &rows)?)? - of_rate).abs() < 1e-9);
    assert!((slope(lmd(false).residual(&student(&net), &rows)?)? - of_rate).abs() > 1e-2);
    Ok(())
}

/// Stages double the jumps until they are whole.
#[test]
fn stages_lengthen_the_jumps() {
    let progressive = |windows| Progressive { teacher: Box::new(FLOW), stage_steps: 10, windows, diagonal: 0.0 };
    let doubling = progressive(Windows::Doubling { first: 0.25 });
    let widths = [0, 9, 10, 20, 99].map(|step| doubling.pairs(step));
    assert_eq!(widths, [0.25, 0.25, 0.5, 1.0, 1.0].map(|width| Pairs::Window { diagonal: 0.0, width }));
    let halving = progressive(Windows::Halving { finest: 2 });
    let levels = [0, 10, 20, 99].map(|step| halving.pairs(step));
    let level = |level| Pairs::Dyadic { diagonal: 0.0, coarsest: level, finest: 2 };
    assert_eq!(levels, [level(2), level(1), level(0), level(0)]);
}
