//! The 3×3 convolution and its gradients, image by image.

use crate::model::kernels::buffer;
use crate::model::kernels::conv::{Conv, add_weight_gradient};
use crate::model::kernels::op::{Kernel, View};
use crate::model::kernels::padded::Padded;
use crate::model::sides::Sides;
use candle_core::{Result, Shape, bail};

/// `x (B, T, K)`, `w (3, 3, K, N)`, and with three arguments `b (N)` or `(B, N)`; gives `(B, T, N)`.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Convolution {
    pub(in crate::model) sides: Sides,
}

impl Kernel<3> for Convolution {
    const NAME: &'static str = "conv3x3";

    fn forward(&self, [x, w, b]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let images = Images::new(self.sides, x, w)?;
        let [_, outputs] = images.channels;
        if b.dims != [outputs] && b.dims != [images.count, outputs] {
            bail!("conv3x3: a bias of shape {:?} for {} images of {outputs} channels", b.dims, images.count);
        }
        Ok((images.forward(x, w, Some(b)), images.shape()))
    }

    fn backward(&self, [x, w, b]: [View<'_>; 3], _: &[f32], grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let Ok(images) = Images::new(self.sides, x, w) else { return [None, None, None] };
        let [dx, dw] = images.gradients(x, w, grad, [wanted[0], wanted[1]]);
        [dx, dw, wanted[2].then(|| images.sums(grad, b.data.len()))]
    }
}

impl Kernel<2> for Convolution {
    const NAME: &'static str = "conv3x3-tangent";

    fn forward(&self, [x, w]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let images = Images::new(self.sides, x, w)?;
        Ok((images.forward(x, w, None), images.shape()))
    }

    fn backward(&self, [x, w]: [View<'_>; 2], _: &[f32], grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        Images::new(self.sides, x, w).map_or([None, None], |images| images.gradients(x, w, grad, wanted))
    }
}

/// A batch of images and the channels before and after.
#[derive(Debug, Clone, Copy)]
struct Images {
    sides: Sides,
    count: usize,
    channels: [usize; 2],
}

impl Images {
    fn new(sides: Sides, x: View<'_>, w: View<'_>) -> Result<Self> {
        match (x.dims, w.dims) {
            (&[count, pixels, inputs], &[3, 3, inner, outputs])
                if pixels == sides.pixels() && inputs == inner && pixels * inputs * outputs > 0 =>
            {
                Ok(Self { sides, count, channels: [inputs, outputs] })
            }
            _ => bail!("conv3x3: cannot take {:?} of {sides:?} through weights {:?}", x.dims, w.dims),
        }
    }

    fn shape(self) -> Shape {
        (self.count, self.sides.pixels(), self.channels[1]).into()
    }

    /// Elements of an image with each number of channels.
    fn lengths(self) -> [usize; 2] {
        self.channels.map(|channels| self.sides.pixels() * channels)
    }

    fn forward(self, x: View<'_>, w: View<'_>, b: Option<View<'_>>) -> Vec<f32> {
        let outputs = self.channels[1];
        let biases = b.map_or(&[][..], |b| b.data).chunks_exact(outputs).cycle();
        let conv = Conv::new(self.sides, self.channels, w.data);
        self.convolve(&conv, self.lengths(), x.data, biases.map(Some).chain(std::iter::repeat(None)))
    }

    /// `conv` of every image of `data`; images before and after have `lengths`.
    fn convolve<'a>(
        self,
        conv: &Conv,
        [before, after]: [usize; 2],
        data: &[f32],
        biases: impl Iterator<Item = Option<&'a [f32]>>,
    ) -> Vec<f32> {
        let (mut out, mut scratch) = (buffer::take(self.count * after), vec![0.0; conv.scratch()]);
        let images = data.chunks_exact(before).zip(out.chunks_exact_mut(after));
        for ((image, out), bias) in images.zip(biases) {
            conv.forward(image, bias, out, &mut scratch);
        }
        out
    }

    fn gradients(self, x: View<'_>, w: View<'_>, grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let [inputs, outputs] = self.lengths();
        let dx = wanted[0].then(|| {
            let adjoint = Conv::adjoint(self.sides, self.channels, w.data);
            self.convolve(&adjoint, [outputs, inputs], grad, std::iter::repeat(None))
        });
        let dw = wanted[1].then(|| {
            let mut dw = buffer::zeros(w.data.len());
            let mut scratch = vec![0.0; Padded::len(self.sides, self.channels[0])];
            for (image, grad) in x.data.chunks_exact(inputs).zip(grad.chunks_exact(outputs)) {
                add_weight_gradient(self.sides, self.channels, image, grad, &mut dw, &mut scratch);
            }
            dw
        });
        [dx, dw]
    }

    /// The sums over pixels: of each image, or of all where there are only `len` channels.
    fn sums(self, grad: &[f32], len: usize) -> Vec<f32> {
        let [_, outputs] = self.channels;
        let mut sums = buffer::zeros(len);
        let per_image = if len == outputs { self.count * self.sides.pixels() } else { self.sides.pixels() };
        crate::model::kernels::loops::vectorized(
            #[inline(always)]
            || {
                for (pixel, values) in grad.chunks_exact(outputs).enumerate() {
                    let sums = &mut sums[pixel / per_image * outputs..][..outputs];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += value;
                    }
                }
            },
        );
        sums
    }
}
