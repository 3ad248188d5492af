//! Properties that every network has.

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::flow::Dual;
use crate::flow::map::jump_and_dt;
use crate::flow::noise::Stream;

pub(super) const CLASSES: usize = 3;

pub(super) fn networks() -> Vec<(Architecture, DataSpec)> {
    let data = |shape: &[usize]| DataSpec {
        name: "test".into(),
        shape: shape.to_vec(),
        range: [-1.0, 1.0],
        classes: (0..CLASSES).map(|class| class.to_string()).collect(),
    };
    let dit =
        Architecture::Dit { patch: 2, width: 24, depth: 2, heads: 3, mlp_ratio: 2, frequencies: 4, max_frequency: 8.0 };
    let mlp = Architecture::Mlp { width: 16, depth: 3, frequencies: 3, max_frequency: 6.0 };
    let unet = Architecture::Unet {
        channels: 16,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![2],
        frequencies: 3,
        max_frequency: 6.0,
    };
    // Networks that end in a single column take another path through the product.
    let (thin_mlp, mut thin_dit) = (mlp.clone(), dit.clone());
    if let Architecture::Dit { patch, .. } = &mut thin_dit {
        *patch = 1;
    }
    vec![
        (mlp, data(&[2])),
        (dit, data(&[1, 6, 4])),
        (unet, data(&[2, 4, 6])),
        (thin_mlp, data(&[1])),
        (thin_dit, data(&[1, 3, 2])),
    ]
}

/// A network whose every weight is random, so that nothing is hidden behind layers that start at zero.
pub(super) fn random_network(
    architecture: &Architecture,
    data: &DataSpec,
    dtype: DType,
) -> (Box<dyn Learn>, Initialiser) {
    let source = Initialiser::new(5);
    let net = build(architecture, data, source.builder(dtype, &Device::Cpu)).unwrap();
    for (index, var) in source.vars().values().enumerate() {
        let values = normals(100 + u32::try_from(index).unwrap(), var.elem_count());
        let noise = Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        var.set(&(var.as_tensor() + (noise * 0.2).unwrap()).unwrap()).unwrap();
    }
    (net, source)
}

pub(super) fn normals(index: u32, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Stream::new(11, index, 7).fill_normal(&mut values);
    values
}

/// Four rows at four different places.
struct Inputs {
    x: Tensor,
    s: Tensor,
    t: Tensor,
    labels: Tensor,
}

fn inputs(data: &DataSpec, dtype: DType) -> Result<Inputs> {
    let cpu = Device::Cpu;
    let shape: Vec<usize> = std::iter::once(4).chain(data.shape.iter().copied()).collect();
    let values = normals(0, shape.iter().product());
    Ok(Inputs {
        x: Tensor::from_vec(values, shape, &cpu)?.to_dtype(dtype)?,
        s: Tensor::new(&[0.0, 0.2, 0.5, 0.7], &cpu)?.to_dtype(dtype)?,
        t: Tensor::new(&[1.0, 0.6, 0.5, 0.9], &cpu)?.to_dtype(dtype)?,
        labels: Tensor::new(&[0u32, 1, 2, 3], &cpu)?,
    })
}

fn largest(x: &Tensor) -> f64 {
    x.abs().and_then(|x| x.flatten_all()).and_then(|x| x.max(0)).and_then(|x| x.to_scalar()).unwrap()
}

/// `d/dt X_{s,t}(x)` by forward mode against central differences, which are off by `O(h²)`.
#[test]
fn the_derivative_in_t_is_exact() -> Result<()> {
    for (architecture, data) in networks() {
        let (net, _) = random_network(&architecture, &data, DType::F64);
        let Inputs { x, s, t, labels } = inputs(&data, DType::F64)?;
        let exact = jump_and_dt(net.as_ref(), &x, &s, &t, &labels)?.1;
        let at = |h: f64| Ok::<_, candle_core::Error>(jump_and_dt(net.as_ref(), &x, &s, &(&t + h)?, &labels)?.0);
        let error = |h: f64| Ok::<_, candle_core::Error>(largest(&(((at(h)? - at(-h)?)? / (2.0 * h))? - &exact)?));
        let (coarse, fine) = (error(1e-3)?, error(1e-4)?);
        assert!(fine < 1e-4 * largest(&exact).max(1.0), "{architecture:?}: {fine}");
        assert!((60.0..160.0).contains(&(coarse / fine)), "{architecture:?}: {coarse} {fine}");
    }
    Ok(())
}

/// A joint tangent in `(x, s, t)`, as the Eulerian losses need it.
#[test]
fn the_derivative_along_space_and_time_is_exact() -> Result<()> {
    for (architecture, data) in networks() {
        let (net, _) = random_network(&architecture, &data, DType::F64);
        let Inputs { x, s, t, labels } = inputs(&data, DType::F64)?;
        let direction = x.sin()?;
        let at = |h: f64| {
            let (x, s, t) = ((&x + (&direction * h)?)?, (&s + h)?, (&t + 2.0 * h)?);
            let [x, s, t] = [x, s, t].map(|v| Dual::constant(&v));
            Ok::<_, candle_core::Error>(net.velocity(&x, &s, &t, &labels)?.primal)
        };
        let seeded =
            |v: &Tensor, rate: f64| Ok::<_, candle_core::Error>(Dual::new(v.clone(), (v.ones_like()? * rate)?));
        let (s_dual, t_dual) = (seeded(&s, 1.0)?, seeded(&t, 2.0)?);
        let exact = net.velocity(&Dual::new(x.clone(), direction.clone()), &s_dual, &t_dual, &labels)?;
        let numeric = ((at(1e-5)? - at(-1e-5)?)? / 2e-5)?;
        let exact = exact.tangent_or_zero()?;
        let error = largest(&(numeric - &exact)?);
        assert!(error < 1e-6 * largest(&exact).max(1.0), "{architecture:?}: {error}");
    }
    Ok(())
}

/// A loss on an answer and its tangent: the same gradients by tapes in f32 as by the graph of tensors in f64.
#[test]
fn tapes_go_back_as_the_graph_does() -> Result<()> {
    let loss = |net: &dyn FlowMap, Inputs { x, s, t, labels }: &Inputs, tangents: bool| {
        let dual = |v: &Tensor, rate: f64| match tangents {
            true => Ok::<_, candle_core::Error>(Dual::new(v.clone(), (v.ones_like()? * rate)?)),
            false => Ok(Dual::constant(v)),
        };
        let answer = net.velocity(&dual(x, 0.5)?, &dual(s, 1.0)?, &dual(t, 2.0)?, labels)?;
        let tangent = answer.tangent_or_zero()?;
        // The network answers twice, the second time from where the first led: gradients of passes add up.
        let moved = (x + (&answer.primal * 0.3)?)?;
        let again = net.velocity(&Dual::constant(&moved), &Dual::constant(t), &Dual::constant(t), labels)?;
        ((answer.primal.sqr()? + tangent.sqr()?)? + again.primal.sin()?)?.sum_all()
    };
    for ((architecture, data), tangents) in networks().into_iter().flat_map(|net| [(net.clone(), false), (net, true)]) {
        let (graph, exact) = random_network(&architecture, &data, DType::F64);
        let (net, source) = random_network(&architecture, &data, DType::F32);
        let exact_loss = loss(graph.as_ref(), &inputs(&data, DType::F64)?, tangents)?;
        let expected = exact_loss.backward()?;
        let recorded = Recorded::new(net.as_ref());
        let loss = loss(&recorded, &inputs(&data, DType::F32)?, tangents)?;
        let of_answers = loss.backward()?;
        let (loss, exact_loss) = (f64::from(loss.to_scalar::<f32>()?), exact_loss.to_scalar::<f64>()?);
        assert!((loss - exact_loss).abs() < 1e-4 * exact_loss.abs(), "{architecture:?}: {loss} {exact_loss}");
        let gradients = recorded.gradients(of_answers)?;
        let exact = exact.vars();
        for (name, var) in source.vars() {
            let want = expected.get(&exact[&name]).unwrap().flatten_all()?.to_vec1::<f64>()?;
            let norm = want.iter().fold(1e-2, |norm: f64, g| norm.max(g.abs()));
            let got = &gradients[&var.id()];
            let error = got.iter().zip(&want).fold(0.0, |error: f64, (g, w)| error.max((f64::from(*g) - w).abs()));
            assert!(
                got.len() == want.len() && error < 1e-4 * norm,
                "{architecture:?} {name}: {error:.1e} of {norm:.1e}"
            );
        }
    }
    Ok(())
}

/// Gradients go to weights and states only, weights without a loss have none, and a stopped network answers the same.
#[test]
fn tapes_refuse_times_with_gradients() -> Result<()> {
    let (architecture, data) = networks().remove(1);
    let (net, _) = random_network(&architecture, &data, DType::F32);
    let Inputs { x, s, t, labels } = inputs(&data, DType::F32)?;
    let recorded = Recorded::new(net.as_ref());
    let variable = Dual::constant(candle_core::Var::from_tensor(&s)?.as_tensor());
    let [x, s, t] = [x, s, t].map(|v| Dual::new(v.clone(), v));
    assert!(recorded.velocity(&x, &variable, &t, &labels).is_err());
    let (live, stopped) =
        (recorded.velocity(&x, &s, &t, &labels)?, Stopped(net.as_ref()).velocity(&x, &s, &t, &labels)?);
    assert!(!stopped.primal.track_op() && live.primal.track_op());
    for (live, stopped) in [(live.primal, stopped.primal), (live.tangent.unwrap(), stopped.tangent.unwrap())] {
        assert_eq!(live.flatten_all()?.to_vec1::<f32>()?, stopped.flatten_all()?.to_vec1::<f32>()?);
    }
    let s = s.primal;
    assert!(recorded.gradients(s.sum_all()?.backward()?)?.is_empty());
    Ok(())
}

/// The gradient of a loss on `d/dt X` in every weight, along a random direction of weights, against a difference.
#[test]
fn losses_on_the_derivative_back_propagate() -> Result<()> {
    for (architecture, data) in networks() {
        let (net, source) = random_network(&architecture, &data, DType::F64);
        let Inputs { x, s, t, labels } = inputs(&data, DType::F64)?;
        let loss = || jump_and_dt(net.as_ref(), &x, &s, &t, &labels)?.1.sqr()?.sum_all();
        let gradients = loss()?.backward()?;
        let vars = source.vars();
        let mut along = 0.0;
        for (name, var) in &vars {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            along += (gradient * var.as_tensor())?.sum_all()?.to_scalar::<f64>()?;
        }
        // Scaling all weights by 1 + h moves the loss by h times the gradient along the weights themselves.
        let kept: Vec<Tensor> = vars.values().map(|var| var.as_tensor().copy()).collect::<Result<_>>()?;
        let at = |h: f64| {
            vars.values().zip(&kept).try_for_each(|(var, kept)| var.set(&(kept * (1.0 + h))?))?;
            loss()?.to_scalar::<f64>()
        };
        let numeric = (at(1e-5)? - at(-1e-5)?) / 2e-5;
        assert!((numeric - along).abs() < 1e-6 * along.abs().max(1.0), "{architecture:?}: {numeric} {along}");
    }
    Ok(())
}

/// A row's bits do not depend on the rows beside it.
#[test]
fn a_row_alone_is_the_row_in_a_batch() -> Result<()> {
    for (architecture, data) in networks() {
        let (net, _) = random_network(&architecture, &data, DType::F32);
        let Inputs { x, s, t, labels } = inputs(&data, DType::F32)?;
        let of = |from: usize, rows: usize| {
            let part = |v: &Tensor| v.narrow(0, from, rows)?.contiguous();
            let [x, s, t] = [part(&x)?, part(&s)?, part(&t)?].map(|v| Dual::constant(&v));
            net.velocity(&x, &s, &t, &part(&labels)?)?.primal.flatten_all()?.to_vec1::<f32>()
        };
        let together = of(0, 4)?;
        let alone: Vec<f32> = (0..4).map(|row| of(row, 1)).collect::<Result<Vec<_>>>()?.concat();
        assert_eq!(together, alone, "{architecture:?}");
        let pairs = [of(0, 2)?, of(2, 2)?].concat();
        assert_eq!(together, pairs, "{architecture:?}");
    }
    Ok(())
}

/// Every class, the null class too, has its own velocity.
#[test]
fn classes_matter() -> Result<()> {
    for (architecture, data) in networks() {
        let (net, _) = random_network(&architecture, &data, DType::F32);
        let Inputs { x, s, t, labels } = inputs(&data, DType::F32)?;
        let [x, s, t] = [&x, &s, &t].map(|v| Dual::constant(&v.narrow(0, 0, 1).and_then(|v| v.repeat(4)).unwrap()));
        let x = Dual::constant(&x.primal.reshape(inputs(&data, DType::F32)?.x.shape())?);
        let rows = net.velocity(&x, &s, &t, &labels)?.primal.flatten_from(1)?.to_vec2::<f32>()?;
        for row in 1..=CLASSES {
            assert_ne!(rows[0], rows[row], "{architecture:?}");
        }
    }
    Ok(())
}

/// The compiled plan of a random network, what it is asked, and what the network itself answers.
fn compiled(architecture: &Architecture, data: &DataSpec) -> (Plan, Inputs, Vec<f32>) {
    let (net, source) = random_network(architecture, data, DType::F32);
    let network = AnyNetwork::new(architecture, data, source.builder(DType::F32, &Device::Cpu)).unwrap();
    let plan = Plan::new(&network, data.shape.iter().product(), CLASSES + 1).unwrap();
    let inputs = inputs(data, DType::F32).unwrap();
    let [x, s, t] = [&inputs.x, &inputs.s, &inputs.t].map(Dual::constant);
    let v = net.velocity(&x, &s, &t, &inputs.labels).unwrap().primal;
    let v = v.flatten_all().and_then(|v| v.to_vec1()).unwrap();
    (plan, inputs, v)
}

/// What `inputs` ask, `times` times over.
fn answers(plan: &Plan, inputs: &Inputs, times: usize, team: &Team) -> Vec<f32> {
    let flat = |tensor: &Tensor| tensor.flatten_all().and_then(|v| v.to_vec1::<f32>()).unwrap();
    let (x, s, t) = (flat(&inputs.x), flat(&inputs.s), flat(&inputs.t));
    let labels = inputs.labels.to_vec1::<u32>().unwrap();
    let query =
        |i: usize| Query { x: &x[i * plan.elements()..][..plan.elements()], s: s[i], t: t[i], label: labels[i] };
    let queries: Vec<Query<'_>> = (0..times).map(|i| query(i % labels.len())).collect();
    let mut out = vec![f32::NAN; times * plan.elements()];
    plan.answer_with(team, &queries, &mut out).unwrap();
    out
}

#[test]
fn a_plan_answers_as_the_network_that_it_was_made_of() {
    let team = Team::new(1).unwrap();
    for (architecture, data) in networks() {
        let (plan, inputs, expected) = compiled(&architecture, &data);
        let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        for (got, want) in answers(&plan, &inputs, 4, &team).iter().zip(&expected) {
            assert!((got - want).abs() < 2e-5 * largest, "{architecture:?}: {got}, not {want}");
        }
    }
}

/// However many rows there are and however many threads: the same bits.
#[test]
fn a_plans_bits_depend_on_nothing_but_the_row() {
    let teams = [1, 2, 3].map(|threads| Team::new(threads).unwrap());
    for (architecture, data) in networks() {
        let (plan, inputs, _) = compiled(&architecture, &data);
        let expected = answers(&plan, &inputs, 4, &teams[0]);
        for team in &teams {
            for times in [1, 2, 3, 5, 7, 64, 131] {
                let got = answers(&plan, &inputs, times, team);
                let row = |i: usize| &expected[i % 4 * plan.elements()..][..plan.elements()];
                for (i, got) in got.chunks_exact(plan.elements()).enumerate() {
                    assert_eq!(got, row(i), "{architecture:?}: row {i} of {times}, {} threads", team.threads());
                }
            }
        }
    }
}

#[test]
fn a_plan_refuses_what_does_not_fit_it() {
    let (architecture, data) = networks().swap_remove(0);
    let (plan, ..) = compiled(&architecture, &data);
    let ask = |x: &[f32], label, room: usize| {
        plan.answer(&[Query { x, s: 0.0, t: 1.0, label }], &mut vec![0.0; room]).map_err(|error| error.to_string())
    };
    assert_eq!(ask(&[0.0; 2], 3, 2), Ok(()));
    assert!(ask(&[0.0; 3], 3, 2).unwrap_err().contains("a query of 3 numbers"));
    assert!(ask(&[0.0; 2], 4, 2).unwrap_err().contains("label 4"));
    assert!(ask(&[0.0; 2], 3, 4).unwrap_err().contains("room for 4 numbers"));
}
