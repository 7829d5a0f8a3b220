# SPDX-License-Identifier: Apache-2.0
"""The section of what bench/cuda/run measured on a GPU."""
from cases import GPU, GPU_PEERS, TYPES, cases, list_order, member_name, member_order
from markdown import median, named, number, span, table

TORCH = "torch_adamw_fused"


def device(figures):
    """One line of what was measured on."""
    name = figures.text("cuda/device").replace("_", " ")
    facts = [f"{number(value * factor)} {unit}" for value, factor, unit in
             ((figures.value("cuda/device/memory"), 1e-9, "GB of memory"),
              (figures.value("cuda/device/nominal_bandwidth"), 1, "GB/s by its clock"),
              (figures.value("cuda/device/l2"), 2**-20, "MiB of L2"),
              (figures.value("cuda/device/multiprocessors"), 1, "multiprocessors")) if value]
    facts += [f"{what} {figures.text(f'cuda/{key}')}" for what, key in
              (("driver", "driver"), ("runtime", "runtime"), ("torch", "torch/version")) if figures.text(f"cuda/{key}")]
    return ", ".join([f"**{name}**", *facts]) + "."


class Steps:
    """The cases of one scope and list: names of figures by what is stepped and how."""

    def __init__(self, figures, scope, model):
        self.figures, self.names = figures, {}
        for case, name in cases(figures, GPU, scope=scope, list=model):
            key = case["member"], case["rank"], case["type"]
            self.names.setdefault(key, {})[case["how"]] = name

    def keys(self):
        return sorted(self.names, key=lambda key: (list(TYPES).index(key[2]) if key[2] in TYPES else len(TYPES), key[2],
                                                   member_order(key[0]), int(key[1] or 0)))

    def value(self, key, how, what):
        name = self.names.get(key, {}).get(how)
        return self.figures.value(f"{name}/{what}") if name else None

    def fastest(self, key):
        """Nanoseconds a parameter, replayed or launched, whichever is less."""
        values = [self.value(key, how, "ns_per_parameter") for how in ("graph", "eager")]
        return min((value for value in values if value), default=None)

    def ratio(self, key, peer):
        """How many times faster than the peer of the same type, and of the same rank where it has one."""
        theirs = [self.fastest(other) for other in self.names
                  if other[0] == peer and other[2] == key[2] and (other[1] is None or other[1] == key[1])]
        ours = self.fastest(key)
        return theirs[0] / ours if ours and theirs and theirs[0] else None


def label(key):
    member, rank, kind = key
    return f"{member_name(member)}{f', rank {rank}' if rank else ''}, {TYPES.get(kind, kind)}"


def steps_table(steps):
    rows = []
    for key in steps.keys():
        of_copy = steps.names[key].get("graph")
        rows.append([label(key), number(steps.value(key, "graph", "ns_per_parameter")),
                     number(steps.value(key, "eager", "ns_per_parameter")),
                     number(steps.value(key, "graph", "bytes_per_parameter")),
                     number(steps.value(key, "graph", "bandwidth")),
                     median(steps.figures, f"{of_copy}/of_copy") if of_copy else "",
                     number(None if key[0] == TORCH else steps.ratio(key, TORCH)),
                     number(steps.value(key, "graph", "state_bytes_per_parameter") or
                            steps.value(key, "eager", "state_bytes_per_parameter")),
                     number(steps.value(key, "graph", "workspace_bytes_per_parameter") or
                            steps.value(key, "eager", "workspace_bytes_per_parameter")),
                     number(steps.value(key, "graph", "kernels"))])
    return table(["", "ns per parameter, graph", "launched", "bytes a parameter", "GB/s", "of a copy's bandwidth",
                  "times as fast as torch's fused AdamW", "state bytes a parameter", "scratch bytes a parameter",
                  "kernels a step"], rows)


def title(figures, scope, model, steps):
    layers = figures.value(f"cuda/{scope}/layers/{model}")
    parameters = figures.value(f"cuda/{scope}/parameters/{model}")
    facts = [f"{number(layers)} layers"] if layers else []
    facts += [f"{number(parameters * 1e-6)} million parameters"] if parameters else []
    copies = span([steps.value(key, how, "copy_bandwidth") for key, names in steps.names.items() for how in names])
    return (f"{model}, {'whole model' if scope == 'whole' else scope}" + (f" ({', '.join(facts)})" if facts else "") +
            f"; a copy beside it: {copies} GB/s.")


def peers_table(by_list):
    """Rows of ours against theirs, a column for each (scope, list)."""
    rows = {}
    for column, steps in by_list.items():
        for key in steps.keys():
            for ours, peer in GPU_PEERS:
                ratio = steps.ratio(key, peer) if key[0] == ours else None
                if ratio:
                    rows.setdefault((label(key), member_name(peer)), {})[column] = number(ratio)
    return table([""] + [f"{model}, {scope}" for scope, model in by_list],
                 [[f"{ours} against {peer}"] + [row.get(column, "") for column in by_list]
                  for (ours, peer), row in rows.items()])


def gpu(figures):
    found = {(case["scope"], case["list"]) for case, _ in cases(figures, GPU)}
    order = sorted(found, key=lambda one: (list_order(one[1]), one[0]))
    by_list = {(scope, model): Steps(figures, scope, model) for scope, model in order}
    if not by_list:
        return None
    lines = [device(figures), ""]
    for (scope, model), steps in by_list.items():
        lines += named(title(figures, scope, model, steps), steps_table(steps))
    return lines + named("Times faster than other packages.", peers_table(by_list))
