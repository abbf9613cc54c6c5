//! A report as one HTML page that loads nothing: bottlenecks, flame graph, tables, light and dark.

use std::fmt::Write as _;

use super::{
    parts::{self, Table},
    report::{Cpu, Finding, Heap, Report},
    terminal,
    words::{self, in_lang, tell},
};
use crate::words::Lang;

const STYLE: &str = include_str!("page.css");
/// Characters of a cell from which it is folded.
const LONG: usize = 300;
const SCRIPT: &str = include_str!("page.js");

/// The page.
pub(super) fn render(lang: Lang, server: &str, report: &Report) -> String {
    let title = escape(&tell(lang, words::TITLE, &[("server", &server)]));
    let code = match lang {
        Lang::En => "en",
        Lang::Zh => "zh-CN",
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"{code}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    );
    for line in terminal::head(lang, report) {
        put(&mut page, format_args!("<p>{}</p>\n", escape(&line)));
    }
    page.push_str("</header>\n<main>\n");
    put_findings(&mut page, lang, report);
    put_flame_graph(&mut page, lang, report);
    for table in parts::tables(report, lang) {
        put_table(&mut page, &table);
    }
    if let Some(Heap::Missing { error }) = &report.memory.heap {
        let text = tell(lang, words::HEAP_FAILED, &[("cause", error)]);
        put(&mut page, format_args!("<p>{}</p>\n", escape(&text)));
    }
    put(
        &mut page,
        format_args!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"),
    );
    page
}

fn put_findings(page: &mut String, lang: Lang, report: &Report) {
    put(
        page,
        format_args!("<section>\n<h2>{}</h2>\n", in_lang(lang, words::BOTTLENECKS)),
    );
    let about = match report.findings.is_empty() {
        true => words::NO_BOTTLENECK,
        false => words::SCORE_ABOUT,
    };
    put(
        page,
        format_args!("<p class=\"about\">{}</p>\n<ol>\n", in_lang(lang, about)),
    );
    for finding in &report.findings {
        put_finding(page, lang, finding);
    }
    page.push_str("</ol>\n</section>\n");
}

fn put_finding(page: &mut String, lang: Lang, finding: &Finding) {
    let weight = match finding.score {
        50.. => "heavy",
        10.. => "middle",
        _ => "light",
    };
    put(
        page,
        format_args!(
            "<li class=\"{weight}\"><span class=\"score\">{}</span><div><h3 tabindex=\"0\">{}</h3><p class=\"change\">{}</p>\
             <p class=\"evidence\"><span class=\"kind\">{}</span> {}</p></div></li>\n",
            finding.score,
            in_code(finding.title(lang)),
            in_code(finding.change(lang)),
            escape(&finding.kind),
            escape(&terminal::evidence(lang, finding)),
        ),
    );
}

fn put_flame_graph(page: &mut String, lang: Lang, report: &Report) {
    let Cpu::Samples(samples) = &report.cpu else {
        return;
    };
    put(
        page,
        format_args!(
            "<section>\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n<p class=\"tools\"><input id=\"find\" type=\"search\" \
             placeholder=\"{search}\" aria-label=\"{search}\"> <button id=\"whole\" type=\"button\">{}</button> \
             <output id=\"found\"></output></p>\n<div class=\"graph\">\n",
            in_lang(lang, words::FLAME),
            in_lang(lang, words::FLAME_ABOUT),
            in_lang(lang, words::RESET),
            search = in_lang(lang, words::SEARCH),
        ),
    );
    page.push_str(&report.flame_graph("tidegate"));
    page.push_str("</div>\n");
    if samples.folded_left_out > 0 {
        let text = tell(lang, words::LEFT_OUT, &[("n", &samples.folded_left_out)]);
        put(page, format_args!("<p class=\"about\">{}</p>\n", escape(&text)));
    }
    page.push_str("</section>\n");
}

fn put_table(page: &mut String, table: &Table) {
    put(
        page,
        format_args!(
            "<section>\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n<div class=\"wide\"><table>\n<tr>",
            escape(table.title),
            escape(table.about)
        ),
    );
    for column in &table.columns {
        put(
            page,
            format_args!("<th{}>{}</th>", class(column.is_number), escape(column.name)),
        );
    }
    page.push_str("</tr>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (cell, column) in row.iter().zip(&table.columns) {
            put(
                page,
                format_args!("<td{}>{}</td>", class(column.is_number), long(cell)),
            );
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n</section>\n");
}

/// A long text is shown as its first lines until somebody points at it.
fn long(cell: &str) -> String {
    match cell.chars().count() {
        n if n > LONG => format!("<div class=\"long\" tabindex=\"0\">{}</div>", escape(cell)),
        _ => escape(cell),
    }
}

const fn class(is_number: bool) -> &'static str {
    if is_number { " class=\"n\"" } else { "" }
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string cannot fail");
}

/// What stands between back-quotes is code.
fn in_code(text: &str) -> String {
    let mut html = String::new();
    let parts: Vec<&str> = text.split('`').collect();
    for (at, part) in parts.iter().enumerate() {
        match at % 2 {
            1 if at + 1 < parts.len() => put(&mut html, format_args!("<code>{}</code>", escape(part))),
            _ => html.push_str(&escape(part)),
        }
    }
    html
}

fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_server_stay_texts() {
        let check = |text: &str, expected: &str| assert_eq!(in_code(text), expected);
        check(
            "`a<b>` is & \"was\"",
            "<code>a&lt;b&gt;</code> is &amp; &quot;was&quot;",
        );
        check("one ` alone", "one  alone");
        check("<script>", "&lt;script&gt;");
    }
}
