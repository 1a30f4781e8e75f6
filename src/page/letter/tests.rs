//! What must hold of every letter.

use super::*;

/// 2026-12-01T14:30:59Z
const UNTIL: UnixTime = UnixTime::from_secs(1_796_135_459);
const ASKED_AT: UnixTime = UnixTime::from_secs(1_795_500_000);

const VIEW: LetterView<'static> = LetterView {
    site_url: "https://www.example.org/portal",
    link: "https://www.example.org/portal/.tidegate/invitation?code=ABCDEFGHJKMNPQRST",
    code: "ABCD-EFGH-JKMN-PQRS-T",
    until: UNTIL,
    asked_at: ASKED_AT,
    next: Some("/apply/new?step=2"),
    unsubscribe: "https://www.example.org/portal/.tidegate/email?forget=1&mac=2",
};

fn file(file: &str, source: &str) -> LetterFile {
    LetterFile { name: format!("letters/{file}"), file: file.to_owned(), source: source.to_owned() }
}

fn text(language: &str) -> LetterFile {
    file(&format!("{language}.txt"), "Subject: {{ language }}\n\n{{ link }}\n")
}

fn with(files: &[LetterFile]) -> Result<Pages, PageError> {
    Pages::built_in().unwrap().with_letters(files)
}

fn refusal(files: &[LetterFile]) -> String {
    with(files).unwrap_err().to_string()
}

fn written(language: &str, view: &LetterView<'_>) -> Letter {
    Pages::built_in().unwrap().letter(Some(language), view).unwrap()
}

// the built-in letters

#[test]
fn every_language_says_all_there_is_to_say() {
    for (language, asked_on, until) in [
        ("en", "24 November 2026", "1 December 2026, 14:30 UTC"),
        ("de", "24. November 2026", "1. Dezember 2026, 14:30 UTC"),
        ("fr", "24 novembre 2026", "1er décembre 2026 à 14:30 UTC"),
        ("es", "24 de noviembre de 2026", "1 de diciembre de 2026 a las 14:30 UTC"),
    ] {
        let letter = written(language, &VIEW);
        assert_eq!(letter.language, language);
        assert!(letter.subject.contains("www.example.org") && letter.subject.len() < 70, "{}", letter.subject);
        let html = letter.html.unwrap();
        for (text, page, unsubscribe) in [(&letter.text, "/apply/new", VIEW.unsubscribe), (&html, ">/apply/new<", "forget=1&amp;mac=2\"")] {
            for said in [
                asked_on,
                until,
                VIEW.link,
                VIEW.code,
                page,
                unsubscribe,
                "www.example.org",
                "https://www.example.org/portal/.tidegate/invitation",
            ] {
                assert!(text.contains(said), "{language} lacks {said}:\n{text}");
            }
            assert!(!text.contains("step=2") && !text.contains("{{") && !text.contains(" none<") && !text.contains(" none\n"), "{text}");
        }
        assert!(letter.text.ends_with('\n') && !letter.text.contains("\n\n\n") && !letter.text.starts_with('\n'), "{}", letter.text);
        // and without a page asked for there is neither a trace nor a gap
        let front = written(language, &LetterView { next: Some("/"), ..VIEW });
        let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).count();
        assert_eq!(lines(&front.text) + 1, lines(&letter.text));
        assert!(!front.text.contains("\n\n\n"), "{}", front.text);
        assert_eq!(front, written(language, &LetterView { next: None, ..VIEW }));
    }
}

#[test]
fn every_variable_is_used_and_described() {
    let header = include_str!("../letter.rs");
    for variable in VARIABLES {
        let of_all = BUILT_IN.iter().filter(|(_, source)| source.contains(&format!("{{{{ {variable} }}}}"))).count();
        // the language and the whole URL are for who writes their own
        let expected = if matches!(variable, "language" | "site_url") { 0 } else { BUILT_IN.len() };
        assert_eq!(of_all, expected, "{variable}");
        assert!(header.contains(&format!("`{variable}`")), "{variable}");
    }
}

#[test]
fn html_is_small_loads_nothing_and_has_its_language() {
    for language in ["en", "de", "fr", "es"] {
        let html = written(language, &VIEW).html.unwrap();
        assert!(html.len() < 6 * 1024, "{language}: {}", html.len());
        assert!(
            html.contains(&format!("<html lang=\"{language}\">")) && html.contains(&format!("<div class=\"letter\" lang=\"{language}\">"))
        );
        for absent in ["<img", "src=", "url(", "@import", "<link", "<script", "http-equiv"] {
            assert!(!html.contains(absent), "{language}: {absent}");
        }
        let links: Vec<&str> = html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(links.iter().all(|link| link.starts_with("https://www.example.org/portal/.tidegate/")), "{links:?}");
    }
}

#[test]
fn what_is_put_in_is_escaped_in_html_and_left_alone_in_text() {
    let view = LetterView {
        site_url: "https://a<b>&\"'",
        link: "https://a/x?code=<&\"'>",
        code: "<AB>",
        unsubscribe: "https://a/?<&\"'>",
        ..VIEW
    };
    let letter = written("en", &view);
    let html = letter.html.unwrap();
    for raw in ["<b>", "<AB>", "<&", "\"'"] {
        assert!(!html.contains(raw), "{raw}: {html}");
    }
    assert!(html.contains("href=\"https://a/x?code=&lt;&amp;&quot;&#39;&gt;\""), "slashes are left alone: {html}");
    assert!(letter.text.contains("https://a/x?code=<&\"'>") && letter.text.contains("<AB>"));
}

#[test]
fn a_page_asked_for_is_shown_only_if_it_is_fit_to() {
    for (next, shown) in [
        ("/apply", Some("/apply")),
        ("/a-b/c_d.html?x=secret#y", Some("/a-b/c_d.html")),
        ("/%C3%BC", Some("/%C3%BC")),
        ("/", None),
        ("/?x", None),
        ("", None),
        ("//evil.example", None),
        ("/x//evil.example", None),
        ("/WWW.evil.example", None),
        ("/https://evil.example", None),
        ("/mail@evil.example", None),
        ("/<b>", None),
        ("/a b", None),
        ("/a\nSubject: b", None),
        ("apply", None),
    ] {
        assert_eq!(fit_to_show(next), shown, "{next}");
    }
    assert_eq!(fit_to_show(&format!("/{}", "a".repeat(NEXT_BYTES_MAX))), None);
}

#[test]
fn times_are_told_in_the_language_and_else_in_digits() {
    let until = |language: &str| Words::of(language).minute(UnixTime::from_secs(1_772_323_199));
    assert_eq!(until("en-GB"), "28 February 2026, 23:59 UTC");
    assert_eq!(until("pl"), "2026-02-28 23:59 UTC");
    assert_eq!(Words::of("pl").day(ASKED_AT), "2026-11-24");
    assert_eq!(Words::of("FR-ca").day(UnixTime::from_secs(1_785_542_400)), "1er août 2026");
    // whatever the clock says, there is a letter
    assert_eq!(Words::of("de").day(UnixTime::from_millis(u64::MAX)), "30. Dezember 9999");
    assert_eq!(Words::of("en").minute(UnixTime::default()), "1 January 1970, 00:00 UTC");
}

// which language

#[test]
fn everybody_is_written_to_in_a_language_of_theirs_if_there_is_one() {
    let built_in = Pages::built_in().unwrap();
    let chosen = |pages: &Pages, wanted: Option<&str>| pages.letter(wanted, &VIEW).unwrap().language;
    for (wanted, language) in [
        (Some("de"), "de"),
        (Some("DE"), "de"),
        (Some("de-CH"), "de"),
        (Some("de-Latn-AT-1996"), "de"),
        (Some("es-419"), "es"),
        (Some("en-US"), "en"),
        (Some("den"), "en"),
        (Some("pl"), "en"),
        (Some("*"), "en"),
        (Some(""), "en"),
        (Some("-de"), "en"),
        (None, "en"),
    ] {
        assert_eq!(chosen(&built_in, wanted), language, "{wanted:?}");
    }
    let own = with(&["fr", "fr-CA", "pt-BR", "zh-Hant-TW"].map(text)).unwrap();
    for (wanted, language) in [
        (Some("fr-ca"), "fr-CA"),
        (Some("fr-CH"), "fr"),
        (Some("pt"), "pt-BR"),
        (Some("pt-PT"), "pt-BR"),
        (Some("zh-Hant"), "zh-Hant-TW"),
        // without English it is the first in the order of the alphabet
        (Some("en"), "fr"),
        (None, "fr"),
    ] {
        assert_eq!(chosen(&own, wanted), language, "{wanted:?}");
    }
}

// an operator's letters

#[test]
fn an_operators_letters_take_the_place_of_all_built_in_ones() {
    let text = "\u{feff}Subject: Room at {{ site_url }}\r\n \r\n\r\nLine\r\n{{ link }}\r\n{# a note #}\r\n";
    let pages = with(&[file("en.html", "<p>{{ link }}</p><style>{{ built_in_style }}</style>"), file("en.txt", text)]).unwrap();
    let letter = pages.letter(Some("de"), &VIEW).unwrap();
    assert_eq!((letter.language.as_str(), letter.subject.as_str()), ("en", "Room at https://www.example.org/portal"));
    assert_eq!(letter.text, format!("Line\n{}\n", VIEW.link));
    assert!(letter.html.unwrap().starts_with(&format!("<p>{}</p><style>:root", VIEW.link)));
    let text_alone = with(&[self::text("nl")]).unwrap().letter(None, &VIEW).unwrap();
    assert_eq!(text_alone, Letter { language: "nl".to_owned(), subject: "nl".to_owned(), text: format!("{}\n", VIEW.link), html: None });
}

#[test]
fn the_letter_in_the_docs_is_one_and_they_name_every_variable() {
    let docs = include_str!("../../../docs/letter.md");
    let block = docs.split("```jinja\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let letter = with(&[file("en.txt", block)]).unwrap().letter(None, &VIEW).unwrap();
    assert!(letter.subject == "Your turn at www.example.org" && letter.text.contains("You will come to /apply/new."), "{letter:?}");
    for variable in VARIABLES.iter().chain(&["built_in_style"]) {
        assert!(docs.contains(&format!("`{variable}`")), "{variable}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_file_and_line() {
    for (source, expected) in [
        ("", "letters/en.txt:1: does not begin with a line such as `Subject: There is room for you now`"),
        ("Hello\n\n{{ link }}", "letters/en.txt:1: does not begin with"),
        ("Subject:  \n\n{{ link }}", "letters/en.txt:1: does not begin with"),
        ("Subject: a\n{{ link }}", "letters/en.txt:2: the line that follows the subject is not empty"),
        ("Subject: a\tb\n\n{{ link }}", "letters/en.txt:1: the subject has more than 200 characters, or some that can't be seen"),
        ("Subject: a\n\nno way in", "letters/en.txt:0: `link` is not in it: it would let nobody in"),
        ("Subject: a\n\n{% if next %}{{ link }}{% endif %}", "letters/en.txt:0: `link` is not in it"),
        ("Subject: a\n\n{{ link }}\n{{ lnik }}", "letters/en.txt:4: `lnik` is undefined"),
        ("Subject: a\n\n{{ link }}\n{% if false %}{{ lnik }}{% endif %}", "letters/en.txt:4: `lnik` is undefined"),
        ("Subject: a\n\n{{ link }}{% if %}", "letters/en.txt:3: syntax error"),
        ("Subject: a\n\n{{ link }}{% include 'x' %}", "letters/en.txt:3: syntax error"),
        (
            "Subject: a\n\n{{ link }}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "takes more than 100000 steps",
        ),
        ("Subject: a\n\n{{ link }}{{ 'x' * 2000000 }}", "a page made from it would be larger than 1048576 bytes"),
    ] {
        let error = refusal(&[file("en.txt", source)]);
        assert!(error.contains(expected), "{source}\n{error}");
    }
    let long = format!("Subject: {}\n\n{{{{ link }}}}", "é".repeat(SUBJECT_CHARS_MAX + 1));
    assert!(refusal(&[file("en.txt", &long)]).contains("more than 200 characters"));
    let large = " ".repeat(TEMPLATE_BYTES_MAX + 1);
    assert!(refusal(&[file("en.txt", &large)]).contains("above 262144"));
    let html = |source: &str| refusal(&[text("en"), file("en.html", source)]);
    assert_eq!(html("no way in"), "letters/en.html:0: `link` is not in it: it would let nobody in");
    assert_eq!(html("\n{% if false %}{{ lnik }}{% endif %}{{ link }}"), "letters/en.html:2: `lnik` is undefined");
}

#[test]
fn files_are_called_by_their_language() {
    for name in ["en.text", "readme.md", "en", "e.txt", "en_GB.txt", "en..txt", "en-.txt", "1en.txt", "TXT", "überall.txt", "en.TXT"] {
        let error = refusal(&[text("en"), file(name, "")]);
        assert_eq!(error, format!("letters/{name}:0: is not called by a language, as de.txt or pt-BR.html"));
    }
    assert_eq!(language_of("pt-BR.html").map(|(tag, _)| tag), Some("pt-BR"));
    assert_eq!(refusal(&[]), "letters:0: there is no text, such as en.txt");
    let alone = refusal(&[text("en"), file("de.html", "{{ link }}")]);
    assert_eq!(alone, "letters/de.html:0: there is no de.txt beside it: who reads no HTML would get nothing");
    assert!(refusal(&[text("en"), text("EN")]).contains("is there twice"));
    assert!(refusal(&[text("en"), text("en")]).contains("is there twice"));
    let many: Vec<LetterFile> = (0..=LETTER_FILES_MAX).map(|n| text(&format!("en-x{n}"))).collect();
    assert!(refusal(&many).contains("there are more than 200 letters"));
}
