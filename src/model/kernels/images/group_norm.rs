//! Group norm with scale and shift, its tangent, and their gradients.
//!
//! With `y = (x - mean x) / n`, `n = √(var x + eps)`, `r = 1 / n` in each group of an image, the derivative of `y` along
//! `h` is the self-adjoint map `A[h] = r (h - mean h - y mean(y h))`. Everything here is, channel by channel, a linear
//! combination of the arguments whose coefficients follow from a few sums over the pixels.

use crate::model::kernels::buffer;
use crate::model::kernels::loops::vectorized;
use crate::model::kernels::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `w y + b` of `x (B, T, C)`, `w (C)`, `b (C)`.
pub(in crate::model) struct GroupNorm {
    pub(in crate::model) groups: usize,
    pub(in crate::model) eps: f32,
}

impl Kernel<3> for GroupNorm {
    const NAME: &'static str = "group-norm";

    fn forward(&self, [x, w, b]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let groups = Groups::new(x, [w, b], self.groups)?;
        let mut out = buffer::empty(x.data.len());
        for x in x.data.chunks_exact(groups.image()) {
            let moments = groups.moments(x, self.eps);
            let terms = groups.channels(|c, g| {
                let slope = w.data[c] * moments.inverse[g];
                [slope, b.data[c] - slope * moments.mean[g]]
            });
            groups.combine([x], &terms, &mut out);
        }
        Ok((out, x.dims.into()))
    }

    fn backward(&self, [x, w, b]: [View<'_>; 3], _: &[f32], grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let Ok(groups) = Groups::new(x, [w, b], self.groups) else { return [None, None, None] };
        let mut dx = buffer::empty(x.data.len());
        let (mut dw, mut db) = (buffer::zeros(groups.count_channels()), buffer::zeros(groups.count_channels()));
        for (x, grad) in x.data.chunks_exact(groups.image()).zip(grad.chunks_exact(groups.image())) {
            let moments = groups.moments(x, self.eps);
            let [sum, along] = groups.sums([grad, x], |c, [grad, x]| [grad, grad * (x - moments.mean_of[c])]);
            for c in 0..groups.count_channels() {
                dw[c] += moments.inverse[c / groups.each] * along[c];
                db[c] += sum[c];
            }
            if wanted[0] {
                let terms = groups.adjoint(&moments, w.data, [&sum, &along]);
                groups.combine([grad, x], &terms, &mut dx);
            }
        }
        [wanted[0].then_some(dx), Some(dw), Some(db)]
    }
}

/// `w A[x']` of `(x, w, x')`.
pub(in crate::model) struct GroupNormTangent {
    pub(in crate::model) groups: usize,
    pub(in crate::model) eps: f32,
}

impl Kernel<3> for GroupNormTangent {
    const NAME: &'static str = "group-norm-tangent";

    fn forward(&self, [x, w, dx]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != dx.dims {
            bail!("group norm: a tangent of shape {:?} at {:?}", dx.dims, x.dims);
        }
        let groups = Groups::new(x, [w, w], self.groups)?;
        let mut out = buffer::empty(x.data.len());
        for (x, dx) in x.data.chunks_exact(groups.image()).zip(dx.data.chunks_exact(groups.image())) {
            let moments = groups.moments(x, self.eps);
            let tangent = groups.tangent(&moments, x, dx);
            let terms = groups.channels(|c, g| {
                let [of_dx, of_x, constant] = tangent.terms(&moments, g);
                [w.data[c] * of_dx, w.data[c] * of_x, w.data[c] * constant]
            });
            groups.combine([dx, x], &terms, &mut out);
        }
        Ok((out, x.dims.into()))
    }

    /// For the gradient `G` of `w A[x']` and `h = w G`: `A[h]` for `x'`, and for `x`, which acts through `y` and `r`, with
    /// `m = mean(y x')` and the gradient `u = -r (m h + mean(h y) x')` for `y`: `A[u] - r mean(h A[x']) y`.
    fn backward(&self, [x, w, dx]: [View<'_>; 3], _: &[f32], grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let Ok(groups) = Groups::new(x, [w, w], self.groups) else { return [None, None, None] };
        let (mut of_x, mut of_dx) = (buffer::empty(x.data.len()), buffer::empty(x.data.len()));
        let mut dw = buffer::zeros(groups.count_channels());
        let images = x.data.chunks_exact(groups.image()).zip(dx.data.chunks_exact(groups.image()));
        for ((x, dx), grad) in images.zip(grad.chunks_exact(groups.image())) {
            let moments = groups.moments(x, self.eps);
            let tangent = groups.tangent(&moments, x, dx);
            let [sum, along, crossed] =
                groups.sums([grad, x, dx], |c, [grad, x, dx]| [grad, grad * (x - moments.mean_of[c]), grad * dx]);
            // Σ G A[x'] of each channel.
            let [slopes] = transposed(&groups.channels(|c, g| {
                let [of_dx, _, _] = tangent.terms(&moments, g);
                let r = moments.inverse[g];
                let centred = crossed[c] - tangent.mean[g] * sum[c];
                [of_dx * centred - r * r * tangent.along[g] * along[c]]
            }));
            dw.iter_mut().zip(&slopes).for_each(|(dw, slope)| *dw += slope);
            if wanted[2] {
                groups.combine([grad, x], &groups.adjoint(&moments, w.data, [&sum, &along]), &mut of_dx);
            }
            if wanted[0] {
                let weighed = |v: &[f32]| groups.means(|c| w.data[c] * v[c]);
                let (mean, along, through_r) = (weighed(&sum), weighed(&along), weighed(&slopes));
                let terms = groups.channels(|c, g| {
                    let r = moments.inverse[g];
                    let (m, a) = (tangent.along[g], r * along[g]);
                    let of_y = r * (2.0 * r * m * a - through_r[g]);
                    let mean_u = -r * (m * mean[g] + a * tangent.mean[g]);
                    [-r * r * m * w.data[c], r * of_y, -r * r * a, -r * mean_u - r * of_y * moments.mean[g]]
                });
                groups.combine([grad, x, dx], &terms, &mut of_x);
            }
        }
        [wanted[0].then_some(of_x), Some(dw), wanted[2].then_some(of_dx)]
    }
}

/// Dimensions of images `(T, C)` whose channels are `groups` runs.
#[derive(Debug, Clone, Copy)]
struct Groups {
    pixels: usize,
    groups: usize,
    /// Channels of a group.
    each: usize,
}

/// Mean and `r` of the groups of an image.
struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// The mean again, for each channel.
    mean_of: Vec<f32>,
}

/// What `A[x']` needs of each group.
struct Tangent {
    /// `mean x'`.
    mean: Vec<f32>,
    /// `mean(y x')`.
    along: Vec<f32>,
}

impl Tangent {
    /// Of `A[x']`: the coefficients of `x'`, `x` and one.
    #[inline(always)]
    fn terms(&self, moments: &Moments, g: usize) -> [f32; 3] {
        let r = moments.inverse[g];
        let of_x = -r * r * self.along[g];
        [r, of_x, -r * self.mean[g] - of_x * moments.mean[g]]
    }
}

impl Groups {
    fn new(x: View<'_>, vectors: [View<'_>; 2], groups: usize) -> Result<Self> {
        match *x.dims {
            [_, pixels, channels]
                if pixels * channels * groups > 0
                    && channels.is_multiple_of(groups)
                    && vectors.iter().all(|v| v.dims == [channels]) =>
            {
                Ok(Self { pixels, groups, each: channels / groups })
            }
            _ => bail!(
                "group norm: {:?} (B, T, C) with weights {:?} in {groups} groups",
                x.dims,
                vectors.map(|v| v.dims)
            ),
        }
    }

    fn count_channels(self) -> usize {
        self.groups * self.each
    }

    /// Elements of an image.
    fn image(self) -> usize {
        self.pixels * self.count_channels()
    }

    /// `f(channel, group)` of every channel.
    #[inline(always)]
    fn channels<T>(self, mut f: impl FnMut(usize, usize) -> T) -> Vec<T> {
        (0..self.count_channels()).map(|c| f(c, c / self.each)).collect()
    }

    /// The mean over a group's elements, from the sum over a channel's.
    fn means(self, sum: impl Fn(usize) -> f32) -> Vec<f32> {
        let count = (self.pixels * self.each) as f32;
        (0..self.groups).map(|g| (g * self.each..(g + 1) * self.each).map(&sum).sum::<f32>() / count).collect()
    }

    /// For each channel the sums over the pixels of what `f(channel, elements)` gives.
    #[inline(always)]
    fn sums<const N: usize, const M: usize>(
        self,
        x: [&[f32]; N],
        f: impl Fn(usize, [f32; N]) -> [f32; M],
    ) -> [Vec<f32>; M] {
        let channels = self.count_channels();
        let mut sums = [const { Vec::new() }; M];
        sums.iter_mut().for_each(|sums| sums.resize(channels, 0.0));
        vectorized(
            #[inline(always)]
            || {
                let rows = sums.each_mut().map(|sums| &mut sums[..channels]);
                for start in (0..self.image()).step_by(channels) {
                    let x = x.map(|x| &x[start..start + channels]);
                    for c in 0..channels {
                        let mut elements = [0.0; N];
                        for n in 0..N {
                            elements[n] = x[n][c];
                        }
                        let terms = f(c, elements);
                        for m in 0..M {
                            rows[m][c] += terms[m];
                        }
                    }
                }
            },
        );
        sums
    }

    fn moments(self, x: &[f32], eps: f32) -> Moments {
        let [sum] = self.sums(
            [x],
            #[inline(always)]
            |_, x| x,
        );
        let mean = self.means(|c| sum[c]);
        let mean_of = self.channels(|_, g| mean[g]);
        let [squares] = self.sums(
            [x],
            #[inline(always)]
            |c, [x]| [(x - mean_of[c]) * (x - mean_of[c])],
        );
        let variance = self.means(|c| squares[c]);
        Moments { mean, inverse: variance.into_iter().map(|v| 1.0 / (v + eps).sqrt()).collect(), mean_of }
    }

    fn tangent(self, moments: &Moments, x: &[f32], dx: &[f32]) -> Tangent {
        let [sum, along] = self.sums(
            [x, dx],
            #[inline(always)]
            |c, [x, dx]| [dx, dx * (x - moments.mean_of[c])],
        );
        let along = self.means(|c| along[c]);
        let along = along.into_iter().zip(&moments.inverse).map(|(a, r)| a * r).collect();
        Tangent { mean: self.means(|c| sum[c]), along }
    }

    /// Of `A[w G]`: the coefficients of `G`, `x` and one, from `Σ G` and `Σ G (x - mean)` of each channel.
    fn adjoint(self, moments: &Moments, w: &[f32], [sum, along]: [&[f32]; 2]) -> Vec<[f32; 3]> {
        let (mean, along) = (self.means(|c| w[c] * sum[c]), self.means(|c| w[c] * along[c]));
        self.channels(|c, g| {
            let r = moments.inverse[g];
            let of_x = -r * r * r * along[g];
            [r * w[c], of_x, -r * mean[g] - of_x * moments.mean[g]]
        })
    }

    /// Appends `Σ terms · elements + last term`, channel by channel, to `out`.
    fn combine<const N: usize, const M: usize>(self, x: [&[f32]; N], terms: &[[f32; M]], out: &mut Vec<f32>) {
        const { assert!(M == N + 1, "a coefficient for each argument, and a constant") };
        let channels = self.count_channels();
        let terms = transposed(terms);
        let mut row = vec![0.0; channels];
        vectorized(
            #[inline(always)]
            || {
                let terms = terms.each_ref().map(|terms| &terms[..channels]);
                for start in (0..self.image()).step_by(channels) {
                    let x = x.map(|x| &x[start..start + channels]);
                    for c in 0..channels {
                        let mut sum = terms[N][c];
                        for n in 0..N {
                            sum += terms[n][c] * x[n][c];
                        }
                        row[c] = sum;
                    }
                    out.extend_from_slice(&row);
                }
            },
        );
    }
}

/// From rows of `M` to `M` columns.
fn transposed<const M: usize>(rows: &[[f32; M]]) -> [Vec<f32>; M] {
    std::array::from_fn(|m| rows.iter().map(|row| row[m]).collect())
}
