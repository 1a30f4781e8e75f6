//! What the model site looks like: a benefits portal of the plain old kind, enough for a person who comes through in a browser.

use std::time::Duration;

/// The page of this number; 0 is the front page. `slow` pages stand under a path of their own.
pub(super) fn page(number: u64, slow: bool, took: Duration) -> String {
    let name = match (number, slow) {
        (0, _) => "Welcome".to_owned(),
        (_, false) => format!("Form {number}: {}", title(number)),
        (_, true) => format!("Report {number}: {}", title(number)),
    };
    let text = if number == 0 {
        "Welcome to the Benefits Portal. Choose a form below, fill it in, and keep your reference number."
    } else {
        "Read the notes on eligibility before you go on. Have your case number and proof of residence at hand."
    };
    let next = number % PAGES + 1;
    let other = (number * 7 + 3) % PAGES + 1;
    let body = format!(
        "<h2>{name}</h2>\n<p>{text}</p>\n<ul>\n\
         <li><a href=\"/page/{next}\">Form {next}: {}</a></li>\n\
         <li><a href=\"/page/{other}\">Form {other}: {}</a></li>\n\
         <li><a href=\"/slow/{next}\">Report {next} (takes its time)</a></li>\n\
         <li><a href=\"/\">Front page</a></li>\n</ul>\n\
         <form method=\"post\" action=\"/apply\">\n<p><label>Case number <input name=\"case\" maxlength=\"20\"></label>\n\
         <button>Apply</button></p>\n</form>",
        title(next),
        title(other),
    );
    frame(&body, took)
}

/// The answer to a form.
pub(super) fn received(bytes: usize, took: Duration) -> String {
    frame(&format!("<h2>Application received</h2>\n<p>{bytes} bytes.</p>\n<p><a href=\"/\">Front page</a></p>"), took)
}

/// The page of a program that has failed.
pub(super) const FAILED: &str = "<!doctype html>\n<title>Error</title>\n<h1>Server Error</h1>\n<p>ORA-12520: no handler.</p>\n";

pub(super) const STYLE: &str = "body { font: 16px Verdana, sans-serif; max-width: 46em; margin: 0 auto; background: #f3f1e8; color: #222 }
header { background: #0b3d66; color: #fff; padding: .5em 1em }
main { background: #fff; padding: 1em; border: 1px solid #bbb }
footer { color: #555; font-size: 80%; padding: .5em 1em }
";

/// How many pages link to each other.
pub(super) const PAGES: u64 = 40;

fn frame(body: &str, took: Duration) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Benefits Portal</title>\n<link rel=\"stylesheet\" href=\"/static/app.css\">\n</head>\n<body>\n\
         <header><h1>Benefits Portal</h1></header>\n<main>\n{body}\n</main>\n\
         <footer>This page took the site {} ms. This is a model of a site: nothing is stored.</footer>\n</body>\n</html>\n",
        took.as_millis()
    )
}

const fn title(number: u64) -> &'static str {
    match number % 5 {
        0 => "Income and household",
        1 => "Health plans",
        2 => "Child care",
        3 => "Heating allowance",
        _ => "Change of address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_link_only_to_pages_that_exist() {
        for number in 0..=PAGES {
            let html = page(number, false, Duration::from_millis(85));
            assert!(html.contains("took the site 85 ms"));
            for link in html.split("href=\"/page/").skip(1) {
                let target: u64 = link.split('"').next().unwrap().parse().unwrap();
                assert!((1..=PAGES).contains(&target), "{number} links to {target}");
            }
        }
    }
}
