//! Line plots over time as self-contained SVG.

use std::fmt::Write as _;

pub struct Plot<'a> {
    pub title: &'a str,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: &'static str,
    /// One value per second.
    pub series: Vec<u32>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT_MARGIN: f64 = 60.0;
const TOP_MARGIN: f64 = 30.0;
const BOTTOM_MARGIN: f64 = 60.0;
const COLOURS: [&str; 4] = ["#1b6ca8", "#2e8b57", "#8e44ad", "#c0392b"];
/// Maximum number of points per line. Each point is the mean of an equal number of seconds, so that lines stay readable.
const MAX_POINTS: usize = 300;

impl Plot<'_> {
    /// Returns the SVG. The y-axis is logarithmic, because the providers differ by orders of magnitude.
    pub fn to_svg(&self) -> String {
        let seconds = self.lines.iter().map(|line| line.series.len()).max().unwrap_or(1).max(2) - 1;
        let each = seconds.div_ceil(MAX_POINTS).max(1);
        let points: Vec<Vec<f64>> = self.lines.iter().map(|line| chunk_means(&line.series[..seconds], each)).collect();
        let most = points.iter().flatten().copied().fold(10.0, f64::max);
        let decades = most.log10().ceil();
        let (right, base) = (WIDTH - 20.0, HEIGHT - BOTTOM_MARGIN);
        let x = |second: f64| LEFT_MARGIN + (right - LEFT_MARGIN) * second / seconds as f64;
        let y = |value: f64| base - (base - TOP_MARGIN) * (value.max(1.0).log10() / decades);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT_MARGIN}\" y=\"18\" font-size=\"13\">{}</text>\n",
            self.title
        );
        for decade in 0..=decades as u32 {
            let (value, at) = (10_u64.pow(decade), y(10_f64.powi(decade.cast_signed())));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT_MARGIN}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
            );
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT_MARGIN - 6.0,
                at + 4.0
            );
        }
        let step = if seconds > 1800 { 300 } else { 60 };
        for second in (0..=seconds).step_by(step) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}:00</text>",
                x(second as f64),
                base + 16.0,
                second / 60
            );
        }
        let mut at = LEFT_MARGIN;
        for (n, (line, points)) in self.lines.iter().zip(&points).enumerate() {
            let path: Vec<String> = points
                .iter()
                .enumerate()
                .map(|(i, value)| format!("{:.1},{:.1}", x((i * each) as f64), y(*value)))
                .collect();
            let colour = COLOURS[n % COLOURS.len()];
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                path.join(" ")
            );
            let name = line.name.replace('`', "");
            let _ = writeln!(
                svg,
                "<text x=\"{at}\" y=\"{}\" fill=\"{colour}\" font-size=\"11\">{name}</text>",
                HEIGHT - 14.0
            );
            // Estimate for the widest of the usual fonts.
            at += 7.0 * name.len() as f64 + 18.0;
        }
        svg + "</svg>\n"
    }
}

fn chunk_means(series: &[u32], each: usize) -> Vec<f64> {
    series.chunks(each).map(|chunk| chunk.iter().map(|n| f64::from(*n)).sum::<f64>() / chunk.len() as f64).collect()
}
