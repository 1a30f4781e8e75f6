//! Requests and answers go through byte for byte, whatever form they come in.

use crate::support::{Upstream, World};

#[test]
fn a_request_reaches_the_site_and_its_answer_the_client() {
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), "");
    let answer = world.get("/a?b=c", &["Accept: text/html"]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = site.requests(1);
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/a?b=c"));
    assert!(answer.pass().starts_with("Cookie: tidegate_pass=v1."));
}
