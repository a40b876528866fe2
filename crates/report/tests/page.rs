//! The page for a browser: what it holds, what it leaves out, and that nothing from a run gets out of its place.

use std::path::Path;

use pointwise_recipe::DeviceName;
use pointwise_report::{NetworkFacts, Page, Study};
use pointwise_runs::{Analysis, Filters, Mistake, Run, Sheet};

/// The committed study, which is without analyses.
fn runs() -> Vec<Run> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/study/runs");
    ["alexnet_plain", "alexnet", "nin"]
        .map(|name| Run::read(folder.join(format!("{name}-seed42"))).expect("a committed run"))
        .into()
}

fn facts() -> Vec<NetworkFacts> {
    serde_json::from_str(include_str!("summary.json")).expect("what `trainer summary --json` said")
}

fn analysis(picture_bytes: usize) -> Analysis {
    Analysis {
        version: Analysis::VERSION,
        classes: vec!["cat".into(), "<b>dog</b>".into()],
        confusion: vec![vec![90, 10], vec![20, 80]],
        mistakes: vec![
            Mistake { image: 7, label: 1, predicted: 0, confidence: 0.98 },
            Mistake { image: 9, label: 0, predicted: 1, confidence: 0.75 },
        ],
        sheet: Some(Sheet { side: 32, columns: 20, jpeg: "A".repeat(picture_bytes) }),
        filters: Some(Filters { name: "features.0.weight".into(), side: 1, values: vec![1.0, 0.0, -1.0] }),
    }
}

fn page(runs: &[Run], picture_bytes: Option<usize>) -> String {
    page_of(runs, picture_bytes.map(analysis))
}

fn page_of(runs: &[Run], analysis: Option<Analysis>) -> String {
    let facts = facts();
    let study = Study::of(runs, &facts).expect("a study");
    let analyses = analysis.map_or(Vec::new(), |all| runs.iter().map(|run| (run, all.clone())).collect());
    Page::new(&study, runs, &facts, analyses).expect("a page").html()
}

/// A page is to open quickly and to travel by mail.
const MOST_BYTES: usize = 3_000_000;

#[test]
fn the_committed_study_is_told_in_plain_words() {
    let html = page(&runs(), None);
    for present in [
        "These runs cannot tell",
        "What the study asks",
        "34.2\u{a0}% fewer",
        "The published conclusion, judged",
        "alexnet_plain, published, epoch 10: 78.58",
        "have no file <code>analysis.json</code>",
        "cargo xtask reproduce --seeds 42",
        "epochs = 10",
        "linear, 4096 \u{2192} 1024",
    ] {
        assert!(html.contains(present), "{present}");
    }
    for absent in ["http://", "https://", "cifar-10-batches-bin\"", "class=\"matrix", "NaN", "inf "] {
        assert!(!html.contains(absent), "{absent}");
    }
    assert!(html.len() < MOST_BYTES, "{}", html.len());
    assert_eq!(html, page(&runs(), None), "the same runs give the same page");
}

#[test]
fn mistakes_lead_to_their_images() {
    let html = page(&runs(), Some(100));
    for present in [
        "<a href=\"#m2-1-0\" aria-label=\"20 of &lt;b&gt;dog&lt;/b&gt; taken for cat: show images\">20</a>",
        "id=\"m2-1-0\"",
        "98 % sure",
        "fill=\"#ff8000\"",
        ".s0{--columns:20;background-image:url(\"data:image/jpeg;base64,AAAA",
    ] {
        assert!(html.contains(present), "{present}");
    }
    assert!(!html.contains("<b>dog"));
    assert_eq!(html.matches("class=\"matrix ").count(), 3);
}

/// So many classes, the first of which is often taken for the last.
fn of_classes(n: usize) -> Analysis {
    let classes = (0..n).map(|class| format!("a class of things with the number {class}")).collect();
    let mut confusion = vec![vec![1; n]; if n <= Analysis::MAX_CONFUSED { n } else { 0 }];
    if let Some(first) = confusion.first_mut() {
        first[n - 1] = 77;
    }
    let mistake = Mistake { image: 7, label: 0, predicted: (n - 1) as u16, confidence: 0.98 };
    Analysis { classes, confusion, mistakes: vec![mistake], ..analysis(100) }
}

#[test]
fn of_many_classes_the_most_frequent_confusions_are_shown_and_of_thousands_the_mistakes_alone() {
    for (n, matrices, said) in [
        (20, 3, "show images\">77</a>"),
        (
            21,
            0,
            "<td>a class of things with the number 0</td><td>a class of things with the number 20</td><td>77</td>",
        ),
        (100, 0, "<td>a class of things with the number 99</td><td>77</td>"),
        (3000, 0, "Tables of 3000 classes by 3000 could not be read"),
    ] {
        let analysis = of_classes(n);
        analysis.check().expect("an analysis");
        let html = page_of(&runs(), Some(analysis));
        assert!(html.contains(said), "{n}");
        assert_eq!(html.matches("class=\"matrix ").count(), matrices, "{n}");
        assert!(html.contains("98 % sure"), "{n}");
        // Long names are cut in the chart, and whole in the table under it.
        assert_eq!(html.contains("a class of things with t\u{2026}"), n <= 100, "{n}");
        assert!(html.len() < MOST_BYTES, "{n}: {}", html.len());
    }
}

#[test]
fn pictures_are_left_out_before_the_page_gets_too_large() {
    let html = page(&runs(), Some(900_000));
    assert!(html.len() < MOST_BYTES, "{}", html.len());
    assert!(html.contains(".s1{") && !html.contains(".s2{"), "two sheets fit");
    assert_eq!(html.matches("The pictures are left out").count(), 1);
}

#[test]
fn names_of_runs_and_networks_are_text_and_nothing_else() {
    const NAME: &str = "<script>alert('x')</script>\"&";
    let mut runs = runs();
    runs[0].config.model = NAME.into();
    runs[0].path = Path::new("x").join("<img src=x onerror=alert(1)>");
    runs[0].environment.processor = "</style><script>".into();
    let mut facts = facts();
    facts[0].model = NAME.into();
    facts[0].layers[0].layer = "<i>".into();
    let study = Study::of(&runs, &facts).unwrap();
    let analyses = runs.iter().map(|run| (run, analysis(10))).collect();
    let html = Page::new(&study, &runs, &facts, analyses).unwrap().html();
    assert!(html.contains("Networks beside each other") && html.contains("&lt;script&gt;alert(&#39;x&#39;)"));
    assert_eq!(html.matches("<script>").count(), 1, "the page's own");
    for absent in ["<img", "<i>", "</style><s"] {
        assert!(!html.contains(absent), "{absent}");
    }
}

#[test]
fn unfinished_and_synthetic_runs_are_shown_as_such() {
    let mut some = runs();
    some[0].result = None;
    some[0].records.truncate(60);
    some[1].result = None;
    some[1].records.clear();
    let html = page(&some, None);
    assert!(html.contains("These runs cannot be compared") && html.contains("not finished: 1 of 10 epochs"));
    some[2].result = None;
    some.iter_mut().for_each(|run| run.records.clear());
    let html = page(&some, None);
    assert!(html.contains("No run has completed an epoch yet") && html.contains("No run is finished yet"));

    let mut synthetic = runs();
    synthetic.iter_mut().for_each(|run| run.environment.data_synthetic = true);
    let html = page(&synthetic, None);
    for present in ["The quick check passed", "Synthetic images", "--quick"] {
        assert!(html.contains(present), "{present}");
    }
    for absent in ["published, epoch", "95 % interval", "78.58"] {
        assert!(!html.contains(absent), "{absent}");
    }
}

#[test]
fn equal_bits_are_claimed_only_of_runs_that_have_them() {
    const CLAIM: &str = "gives the same numbers to the last bit";
    const EXCEPTION: &str = "without <code>--deterministic</code>";
    let html = page(&runs(), None);
    assert!(html.contains(CLAIM) && !html.contains(EXCEPTION));
    let mut gpu = runs();
    for run in &mut gpu {
        run.config.device = DeviceName::Cuda(0);
        run.environment.accelerator = Some("NVIDIA something".into());
    }
    let html = page(&gpu, None);
    assert!(!html.contains(CLAIM) && html.contains(EXCEPTION) && html.contains("NVIDIA something"));
    gpu[0].config.deterministic = true;
    let html = page(&gpu, None);
    assert!(html.contains(CLAIM) && html.contains("which are here: alexnet-seed42, nin-seed42."));
}
