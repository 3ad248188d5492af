//! What the CPU kernels reach of what the machine can do.
//!
//! ```text
//! cargo bench --bench kernels
//! ```
//!
//! The limit is measured in the same run: multiply-adds on registers alone. A convolution's operations are those of its
//! definition, so that Winograd's algorithm can pass the limit.

use std::time::{Duration, Instant};

use flowmap::model::kernels::measured;

/// Turns of each kernel; the best and the median of them are shown.
const TURNS: usize = 15;
/// Length of a turn.
const TURN: Duration = Duration::from_millis(20);

/// Rows, inputs and outputs of linear layers: those of the embedded network for one image and for eight, and large ones.
const LINEAR: [[usize; 3]; 10] = [
    [49, 128, 384],
    [49, 128, 512],
    [49, 512, 128],
    [392, 128, 512],
    [392, 512, 128],
    [1, 128, 768],
    [8, 128, 768],
    [1568, 192, 768],
    [784, 1024, 256],
    [1024, 1024, 1024],
];

fn main() {
    let limit = measured::PEAK_OPERATIONS / seconds(measured::peak)[0];
    println!("{}, one thread; {:.1} GFLOP/s are the limit\n", measured::instruction_set(), limit / 1e9);
    println!("| kernel | µs | GFLOP/s | median | of the limit |");
    println!("| :--- | ---: | ---: | ---: | ---: |");
    let show = |name: String, operations: usize, kernel: &mut dyn FnMut()| {
        let [best, median] = seconds(kernel);
        let rate = |seconds| operations as f64 / seconds;
        let share = 100.0 * rate(best) / limit;
        let (us, best, median) = (best * 1e6, rate(best) / 1e9, rate(median) / 1e9);
        println!("| {name} | {us:.1} | {best:.1} | {median:.1} | {share:.0} % |");
    };
    for shape @ [m, k, n] in LINEAR {
        show(format!("linear {m} × {k} × {n}"), 2 * m * k * n, &mut measured::linear(shape, false));
    }
    show("linear 49 × 128 × 512 with SiLU".into(), 2 * 49 * 128 * 512, &mut measured::linear([49, 128, 512], true));
    for (tokens, channels, heads) in [(49, 128, 4), (196, 192, 3)] {
        let name = format!("attention of {tokens} tokens, {heads} heads of {}", channels / heads);
        show(name, 4 * tokens * tokens * channels, &mut measured::attention(tokens, channels, heads));
    }
    show("norm and modulation 49 × 128".into(), 8 * 49 * 128, &mut measured::norm(49, 128));
    for (side, channels) in [(28, 32), (14, 64), (7, 64), (32, 64), (16, 128), (8, 256)] {
        let name = format!("3×3 convolution, {side} × {side}, {channels} channels");
        show(name, 18 * side * side * channels * channels, &mut measured::convolution(side, channels));
    }
}

/// Seconds of one call: the best of the turns and the median.
fn seconds(mut kernel: impl FnMut()) -> [f64; 2] {
    let mut turns: Vec<f64> = (0..TURNS).map(|_| turn(&mut kernel)).collect();
    turns.sort_by(f64::total_cmp);
    [turns[0], turns[TURNS / 2]]
}

fn turn(mut kernel: impl FnMut()) -> f64 {
    let (start, mut calls) = (Instant::now(), 0u32);
    while start.elapsed() < TURN {
        kernel();
        calls += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}
