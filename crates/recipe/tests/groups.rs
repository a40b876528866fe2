//! Which parameter belongs to which group.

use pointwise_recipe::{Group, Recipe};

const PARAMETERS: [(&str, usize); 7] = [
    ("conv1.weight", 4),
    ("bn1.weight", 1),
    ("bn1.bias", 1),
    ("layer1.0.conv.weight", 4),
    ("layer10.conv.weight", 4),
    ("fc.weight", 2),
    ("fc.bias", 1),
];

fn recipe(groups: &str) -> Recipe {
    let text = format!(
        "epochs = 1\nbatch-size = 1\noptimizer = {{ SGD = {{ weight_decay = 0.5 }} }}\nparameter-groups = [{groups}]\n"
    );
    Recipe::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The factor and decay of every parameter, by number.
fn groups(groups: &str) -> [(f64, f64); 7] {
    let recipe = recipe(groups);
    PARAMETERS.map(|(name, dims)| {
        let Group { lr_factor, weight_decay, .. } = recipe.group(name, dims);
        (lr_factor, weight_decay)
    })
}

/// The numbers of the parameters that a pattern names.
fn matched(pattern: &str) -> Vec<usize> {
    let found = groups(&format!("{{ names = {pattern:?}, lr_factor = 2 }}"));
    (0..7).filter(|i| found[*i] == (2.0, 0.5)).collect()
}

#[test]
fn without_groups_the_optimizers_own_values_count() {
    assert_eq!(groups(""), [(1.0, 0.5); 7]);
}

#[test]
fn patterns_are_of_whole_names() {
    assert_eq!(matched("*"), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(matched("fc.*"), [5, 6]);
    assert_eq!(matched("*.bias"), [2, 6]);
    assert_eq!(matched("fc.weight"), [5]);
    assert_eq!(matched("layer1.*"), [3]);
    assert_eq!(matched("layer1*"), [3, 4]);
    assert_eq!(matched("layer1?.*"), [4]);
    assert_eq!(matched("*conv*"), [0, 3, 4]);
    assert_eq!(matched("*.*.*.*"), [3]);
    for nothing in ["", "fc", "weight", "FC.*", "fc.bias?", "bn[1].bias", "conv1\\.weight", "(bn1|fc).bias"] {
        assert_eq!(matched(nothing), [0; 0], "{nothing}");
    }
}

#[test]
fn dimensions() {
    let decay = |most: usize| {
        groups(&format!("{{ max_dims = {most}, weight_decay = 0 }}")).map(|(_, decay)| decay == 0.0)
    };
    assert_eq!(decay(1), [false, true, true, false, false, false, true]);
    assert_eq!(decay(2), [false, true, true, false, false, true, true]);
    assert_eq!(decay(3), decay(2));
    assert_eq!(decay(4), [true; 7]);
}

#[test]
fn the_first_match_counts_alone() {
    let found = groups(
        "{ names = 'fc.*', max_dims = 1, lr_factor = 10 }, { max_dims = 1, weight_decay = 0 },
         { names = '*', lr_factor = 0, weight_decay = 0.25 }, { names = 'fc.*', lr_factor = 3 }",
    );
    let (first, second, third) = ((10.0, 0.5), (1.0, 0.0), (0.0, 0.25));
    assert_eq!(found, [third, second, second, third, third, third, first]);
}

#[test]
fn a_group_of_nothing_is_refused() {
    let check = |groups: &str| recipe(groups).check_groups(PARAMETERS.into_iter());
    assert_eq!(check(""), Ok(()));
    assert_eq!(check("{ names = 'fc.*' }, { max_dims = 1 }, { names = '*' }"), Ok(()));
    let refused = |groups: &str, number: usize| {
        let expected = format!(
            "no parameter of the network belongs to parameter group {number}; check its names and max_dims, and the groups before it"
        );
        assert_eq!(check(groups).unwrap_err().to_string(), expected);
    };
    refused("{ names = 'classifier.*' }", 1);
    refused("{ names = 'fc' }", 1);
    refused("{ names = 'conv1.*', max_dims = 2 }", 1);
    // Everything that it matches belongs to the groups before it.
    refused("{ names = '*' }, { max_dims = 1 }", 2);
    refused("{ names = 'fc.*' }, { max_dims = 1 }, { names = '*.bias' }", 3);
    refused("{ names = '*' }, { names = 'a' }, { names = 'b' }", 2);
}

/// Patterns on which a careless matcher takes forever, and lists that a careless check goes through again for every parameter.
#[test]
fn hostile_patterns() {
    let pattern = "*a".repeat(5_000);
    let name = "a".repeat(4_999) + "b";
    let recipe = recipe(&format!("{{ names = '{pattern}' }}"));
    assert!(recipe.check_groups([(name.as_str(), 1)].into_iter()).is_err());

    let names: Vec<String> = (0..1_000).map(|i| format!("layer{i}.weight")).collect();
    let groups: String = names.iter().map(|name| format!("{{ names = '{name}' }}, ")).collect();
    assert_eq!(self::recipe(&groups).check_groups(names.iter().map(|name| (name.as_str(), 1))), Ok(()));
}
