import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import type { Choice, Target } from './protocol';
import type { Settings } from './settings';
import { rows, type Row } from './targets';

export interface Picked {
	target: string;
	namespace?: string;
	context?: string;
	steal: boolean;
}

type Item = vscode.QuickPickItem & { row: Row };

const redraw = 150; // ms between two changes of the list while targets come in

/** Lets the user choose a target; undefined: they did not. */
export async function pickTarget(
	daemon: Daemon, settings: Settings, choice: Choice, fixedSteal: boolean, why: string, fail: (e: unknown) => void,
): Promise<Picked | undefined> {
	const overrides = { ...choice.overrides };
	overrides.namespace ??= settings.namespace;
	overrides.context ??= settings.context;
	for (;;) {
		const answer = await list(daemon, settings, { ...choice, overrides }, fixedSteal, why, fail);
		switch (answer?.kind) {
			case undefined:
				return undefined;
			case 'target':
				await settings.setLastTarget(answer.path);
				return { target: answer.path, namespace: overrides.namespace, context: overrides.context, steal: settings.steal };
			case 'incoming':
				await settings.setSteal(!settings.steal);
				break;
			case 'namespace': {
				const n = await pickOne('mirrord: switch namespace', 'Namespace of the target', async () => {
					const r = await daemon.namespaces({ ...choice, overrides });
					return { current: r.current, all: r.namespaces };
				}, fail, true);
				if (n) await settings.setNamespace(overrides.namespace = n);
				break;
			}
			case 'context': {
				const c = await pickOne('mirrord: switch context', 'Context of the kubeconfig', async () => {
					const r = await daemon.contexts({ ...choice, overrides });
					return { current: r.current ?? '', all: r.contexts };
				}, fail, false);
				if (c && c !== overrides.context) {
					await settings.setContext(overrides.context = c);
					await settings.setNamespace(overrides.namespace = choice.overrides.namespace); // the new context's own
				}
				break;
			}
		}
	}
}

type Answer = { kind: 'target'; path: string } | { kind: 'namespace' | 'context' | 'incoming' };

/** Shows the targets as they come. */
async function list(
	daemon: Daemon, settings: Settings, choice: Choice, fixedSteal: boolean, why: string, fail: (e: unknown) => void,
): Promise<Answer | undefined> {
	const pick = vscode.window.createQuickPick<Item>();
	const cancel = new vscode.CancellationTokenSource();
	const button = { namespace: new vscode.ThemeIcon('layers'), context: new vscode.ThemeIcon('server-environment'), refresh: new vscode.ThemeIcon('refresh') };
	const toNamespace: vscode.QuickInputButton = { iconPath: button.namespace, tooltip: 'Switch namespace' };
	const toContext: vscode.QuickInputButton = { iconPath: button.context, tooltip: 'Switch context' };
	const again: vscode.QuickInputButton = { iconPath: button.refresh, tooltip: 'Look again' };
	pick.title = 'mirrord: choose a target';
	pick.buttons = [toNamespace, toContext, again];
	pick.matchOnDescription = true;
	pick.ignoreFocusOut = true;
	pick.keepScrollPosition = true;
	let namespace = choice.overrides.namespace ?? '';
	let context = choice.overrides.context ?? '';
	const targets: Target[] = [];

	const show = () => {
		const active = pick.activeItems[0]?.row;
		pick.placeholder = `${why}: type to filter${namespace && ` · namespace ${namespace}`}${context && ` · context ${context}`}`;
		pick.items = rows({ targets, last: settings.lastTarget, namespace, context, steal: settings.steal, fixedSteal }).map(item);
		const same = active?.kind === 'target' && pick.items.find((i) => i.row.kind === 'target' && i.row.path === active.path);
		if (same) pick.activeItems = [same];
	};
	let timer: NodeJS.Timeout | undefined;
	const soon = () => { timer ??= setTimeout(() => { timer = undefined; show(); }, redraw); };

	const load = async () => {
		pick.busy = true;
		targets.length = 0;
		const contexts = daemon.contexts(choice, cancel.token).then((c) => { context ||= c.current ?? ''; soon(); }, () => {});
		try {
			const all = await daemon.targets(choice, (part) => {
				targets.push(...part);
				soon();
			}, cancel.token);
			namespace = all.namespace;
			targets.splice(0, targets.length, ...all.targets);
			await contexts;
		} catch (e) {
			if (cancel.token.isCancellationRequested) return;
			fail(e); // the switches stay, which may be the way out
		} finally {
			clearTimeout(timer);
			timer = undefined;
		}
		if (cancel.token.isCancellationRequested) return;
		pick.busy = false;
		show();
	};

	try {
		return await new Promise<Answer | undefined>((resolve) => {
			pick.onDidAccept(() => {
				const row = pick.selectedItems[0]?.row;
				if (!row || row.kind === 'separator') return;
				if (row.kind !== 'target') return resolve({ kind: row.kind });
				if (row.available) return resolve({ kind: 'target', path: row.path });
				pick.placeholder = `${row.path} cannot be a target now: ${row.description}`;
			});
			pick.onDidTriggerButton((b) => (b === again ? void load() : resolve({ kind: b === toNamespace ? 'namespace' : 'context' })));
			pick.onDidHide(() => resolve(undefined));
			show();
			pick.show();
			void load();
		});
	} finally {
		cancel.cancel();
		cancel.dispose();
		clearTimeout(timer);
		pick.dispose();
	}
}

function item(row: Row): Item {
	if (row.kind === 'separator') return { label: row.label, kind: vscode.QuickPickItemKind.Separator, row };
	return { label: row.label, description: row.description, row };
}

/** Lets the user choose a name; free: or type another. */
async function pickOne(
	title: string, placeholder: string, load: () => Promise<{ current: string; all: string[] }>, fail: (e: unknown) => void, free: boolean,
): Promise<string | undefined> {
	const pick = vscode.window.createQuickPick();
	pick.title = title;
	pick.placeholder = placeholder;
	pick.busy = true;
	pick.ignoreFocusOut = true;
	try {
		return await new Promise<string | undefined>((resolve) => {
			pick.onDidAccept(() => resolve(pick.selectedItems[0]?.label ?? (free && pick.value.trim() ? pick.value.trim() : undefined)));
			pick.onDidHide(() => resolve(undefined));
			pick.show();
			load().then(({ current, all }) => {
				pick.items = [...all.filter((n) => n === current), ...all.filter((n) => n !== current)]
					.map((n) => (n === current ? { label: n, description: 'current' } : { label: n }));
			}, (e: unknown) => {
				if (free) pick.placeholder = `${placeholder}: type its name (${e instanceof Error ? e.message : String(e)})`;
				else { fail(e); resolve(undefined); }
			}).finally(() => { pick.busy = false; });
		});
	} finally {
		pick.dispose();
	}
}
