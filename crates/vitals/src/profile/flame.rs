//! A flame graph as one SVG: widths are shares of samples, heights are depth; nothing is loaded and no script runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::CpuProfile;

const WIDTH: f64 = 1_200.0;
const ROW: f64 = 17.0;
const TOP: f64 = 46.0;
/// Narrower boxes are left out: they cannot be seen, and this bounds the file.
const NARROWEST: f64 = 0.3;
/// A letter of the 11 px monospace font.
const LETTER: f64 = 6.7;

/// Calls merged by name.
#[derive(Default)]
struct Node<'a> {
    count: u64,
    children: BTreeMap<&'a str, Node<'a>>,
}

/// One box to draw.
struct Area<'a> {
    name: &'a str,
    x: f64,
    width: f64,
    depth: usize,
    count: u64,
}

/// Draws the profile, the outermost call on top.
pub(super) fn render(profile: &CpuProfile, title: &str) -> String {
    let mut root = Node::default();
    for stack in &profile.stacks {
        root.add(profile.names(stack), stack.count);
    }
    let areas = lay_out(&root);
    let depth = areas.iter().map(|area| area.depth + 1).max().unwrap_or(1);
    let height = TOP + depth as f64 * ROW + 10.0;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        r##"<svg class="flame" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" font-family="monospace" font-size="11">
<style>.flame g rect{{stroke:#fff;stroke-width:.5}}.flame g:hover rect{{stroke:#000;stroke-width:1.5}}.flame text{{pointer-events:none}}</style>
<rect class="back" width="{WIDTH}" height="{height}" fill="#fdfdfb" stroke="none"/>
<text class="title" x="10" y="20" font-size="15">{}</text>
<text class="note" x="10" y="37" fill="#555">{} samples, {} lost, {} threads, {} Hz, {:.1} s, {}</text>
"##,
        escape(title),
        profile.samples,
        profile.lost,
        profile.threads,
        profile.hertz,
        profile.length.as_secs_f64(),
        profile.source.as_str(),
    );
    areas.iter().for_each(|area| draw(&mut svg, area, root.count));
    svg.push_str("</svg>\n");
    svg
}

impl<'a> Node<'a> {
    fn add(&mut self, names: impl Iterator<Item = &'a str>, count: u64) {
        self.count += count;
        let mut node = self;
        for name in names {
            node = node.children.entry(name).or_default();
            node.count += count;
        }
    }
}

/// Depth first with a list instead of recursion: stacks may be deep.
fn lay_out<'a>(root: &Node<'a>) -> Vec<Area<'a>> {
    let scale = WIDTH / root.count.max(1) as f64;
    let mut areas = Vec::new();
    let mut open = vec![(root, 0.0, 0)];
    while let Some((node, start, depth)) = open.pop() {
        let mut x = start;
        for (name, child) in &node.children {
            let width = child.count as f64 * scale;
            if width >= NARROWEST {
                areas.push(Area {
                    name,
                    x,
                    width,
                    depth,
                    count: child.count,
                });
                open.push((child, x, depth + 1));
            }
            x += width;
        }
    }
    areas
}

fn draw(svg: &mut String, area: &Area<'_>, all: u64) {
    let y = TOP + area.depth as f64 * ROW;
    let share = area.count as f64 * 100.0 / all.max(1) as f64;
    let name = escape(area.name);
    let _ = write!(
        svg,
        r#"<g><title>{name}: {} samples, {share:.2} %</title><rect x="{:.2}" y="{y}" width="{:.2}" height="{ROW}" fill="{}"/>"#,
        area.count,
        area.x,
        area.width,
        colour(area.name),
    );
    let n_letters = ((area.width - 6.0) / LETTER) as usize;
    if n_letters >= 3 {
        let text = escape(&shorten(area.name, n_letters));
        let _ = write!(
            svg,
            r#"<text x="{:.2}" y="{}">{text}</text>"#,
            area.x + 3.0,
            y + 12.5
        );
    }
    svg.push_str("</g>\n");
}

/// The end of a path says most.
fn shorten(name: &str, n_letters: usize) -> String {
    let n = name.chars().count();
    if n <= n_letters {
        return name.to_owned();
    }
    let end: String = name.chars().skip(n - (n_letters - 2)).collect();
    format!("..{end}")
}

/// Warm, and the same for the same name in every graph (FNV-1a).
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!(
        "hsl({},{}%,{}%)",
        12 + hash % 38,
        70 + (hash >> 8) % 20,
        62 + (hash >> 16) % 12
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_shortened_from_the_front() {
        assert_eq!(escape("<A as \"B\">&\n"), "&lt;A as &quot;B&quot;&gt;&amp; ");
        assert_eq!(shorten("a::b::long", 6), "..long");
        assert_eq!(shorten("short", 6), "short");
    }

    #[test]
    fn children_lie_inside_their_parent() {
        let mut root = Node::default();
        root.add(["t", "a", "b"].into_iter(), 3);
        root.add(["t", "a"].into_iter(), 1);
        root.add(["t", "c"].into_iter(), 4);
        let areas = lay_out(&root);
        let of = |name| areas.iter().find(|area| area.name == name).unwrap();
        assert_eq!((of("t").width, of("t").depth), (WIDTH, 0));
        assert_eq!((of("a").x, of("a").width), (0.0, WIDTH / 2.0));
        assert_eq!((of("b").x, of("b").width), (0.0, WIDTH * 3.0 / 8.0));
        assert_eq!((of("c").x, of("c").depth), (WIDTH / 2.0, 1));
    }
}
