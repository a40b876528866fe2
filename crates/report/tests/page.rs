//! The page for a browser: what it holds, what it leaves out, and that nothing from a run gets out of its place.

use std::path::Path;

use pointwise_recipe::DeviceName;
use pointwise_report::{NetworkFacts, Page, StudyReport};
use pointwise_runs::{Analysis, Filters, Mistake, Run, Sheet};
use pointwise_study::{Arm, Published, Study};

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
    page_about(&study(), runs, &facts(), analysis)
}

fn study() -> Study {
    Study::by_name("pointwise").expect("the published study")
}

fn page_about(study: &Study, runs: &[Run], facts: &[NetworkFacts], analysis: Option<Analysis>) -> String {
    let report = StudyReport::new(runs, facts, study).expect("a report");
    let analyses = analysis.map_or(Vec::new(), |all| runs.iter().map(|run| (run, all.clone())).collect());
    Page::new(&report, runs, facts, analyses, study).html()
}

/// A page should open quickly and fit into an e-mail.
const MOST_BYTES: usize = 3_000_000;

#[test]
fn the_committed_study_is_told_in_plain_words() {
    let html = page(&runs(), None);
    for present in [
        "These runs cannot tell",
        "What the study asks",
        "<li><strong>nin</strong> has 34.2 % fewer parameters than <strong>alexnet</strong>.</li>",
        "<p>A convolutional network looks for patterns",
        "Published: A PyTorch notebook on pointwise convolutions.",
        "The published conclusion, judged",
        "alexnet_plain, published, epoch 10: 78.58",
        "have no file <code>analysis.json</code>",
        "trainer reproduce pointwise --seeds 42<",
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

/// An analysis of `n` classes, the first of which is often taken for the last.
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
        (3000, 0, "Tables of 3000 classes by 3000 would be unreadable"),
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
    // In a study that has such a name.
    let mut study = study();
    study.arms[0].name = NAME.into();
    study.title = format!("{NAME} by <b>me</b>");
    study.question = "<i>Why</i>?\n\n</section>".into();
    study.conclusion = NAME.into();
    let source = study.source.as_mut().expect("a source");
    (source.author, source.licence) = (NAME.into(), "<u>".into());
    source.link = "javascript:alert(1)".into();
    study.claims[0].text = "<i>of course</i>".into();
    let html = page_about(&study, &runs, &facts, Some(analysis(10)));
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)") && html.contains("&lt;i&gt;Why&lt;/i&gt;?"));
    assert!(!html.contains("href=\"javascript"));
    study.source.as_mut().expect("a source").link = "https://example.org/?a=\"><script>".into();
    let linked = page_about(&study, &runs, &facts, None);
    assert!(
        linked.contains("<a href=\"https://example.org/?a=&quot;&gt;&lt;script&gt;\" rel=\"noopener"),
        "{linked}"
    );
    assert_eq!(html.matches("<script>").count(), 1, "the page's own");
    for absent in ["<img", "<i>", "<u>", "<b>me", "</style><s"] {
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
fn accuracies_over_views_are_shown_where_there_are_any() {
    let mut runs = runs();
    assert!(!page(&runs, None).contains("TTA"));
    // The last one is under way.
    runs.last_mut().unwrap().result = None;
    for result in runs.iter_mut().filter_map(|run| run.result.as_mut()) {
        result.tta_test_acc = Some(0.9375);
    }
    let page = page(&runs, None);
    assert!(page.contains("Accuracy with test-time augmentation after the last epoch"), "{page}");
    assert!(page.contains("TTA accuracy %") && page.contains(">93.75<"), "{page}");
    let table = &page[page.find("TTA accuracy %").unwrap()..];
    let rows = table.split("</table>").next().unwrap();
    let cells = |row: &str| row.matches("<td").count() + row.matches("<th").count();
    let widths: Vec<usize> = rows.split("<tr>").skip(1).map(cells).collect();
    assert_eq!(widths, [9, 9, 9]);
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

/// A study of `count` networks that nobody published, with a run of each.
fn grid(count: usize) -> (Study, Vec<Run>, Vec<NetworkFacts>) {
    let (template, base) = (study(), runs());
    let mut study = Study { primary: Vec::new(), claims: Vec::new(), source: None, ..template };
    study.title = "A grid".into();
    let arm = study.arms[2].clone();
    study.arms = (0..count)
        .map(|index| {
            let name = format!("nin-rate{index}");
            let mut arm =
                Arm { name: name.clone(), is_shipped: false, published: Published::default(), ..arm.clone() };
            arm.network.name = name;
            arm
        })
        .collect();
    let runs = study.arms.iter().map(|arm| {
        let mut run = base[2].clone();
        run.config.model.clone_from(&arm.name);
        run.config.network = Some(arm.network.to_toml());
        run.path = Path::new("runs").join(format!("{}-seed42", arm.name));
        run
    });
    let runs: Vec<Run> = runs.collect();
    let nin = facts().into_iter().find(|facts| facts.model == "nin").expect("facts");
    let facts =
        study.arms.iter().map(|arm| NetworkFacts { model: arm.name.clone(), ..nin.clone() }).collect();
    (study, runs, facts)
}

#[test]
fn one_network_and_forty_have_a_page_that_reads_well() {
    let (study, runs, facts) = grid(1);
    let html = page_about(&study, &runs, &facts, None);
    assert!(
        html.contains("What a network learned") && html.contains("1 network, 1 run; there is no verdict.")
    );
    for absent in ["Pareto", "published run", "outside of", "judged", "NaN", "inf ", "CIFAR-10 and"] {
        assert!(!html.contains(absent), "{absent}");
    }
    for count in [13, 40] {
        let (study, runs, facts) = grid(count);
        let html = page_about(&study, &runs, &facts, Some(analysis(30_000)));
        assert!(html.len() < MOST_BYTES, "{count}: {}", html.len());
        // Names at lines would overlap: they are in a key, twice, each with a unique mark.
        assert_eq!(html.matches("<p class=\"key marks\">").count(), 2, "{count}");
        let key = html.split("<p class=\"key marks\">").nth(1).expect("a key");
        let key = key.split("</p>").next().expect("its end");
        let marks: Vec<&str> =
            key.split("<span>").skip(1).map(|mark| mark.split("<title>").next().unwrap_or("")).collect();
        assert_eq!(marks.len(), count);
        for (index, mark) in marks.iter().enumerate() {
            assert!(!marks[..index].contains(mark), "{count}: {index} looks like another");
        }
    }
}
