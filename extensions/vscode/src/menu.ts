import * as vscode from 'vscode';
import type { Sessions } from './sessions';
import type { Settings } from './settings';
import { short } from './status';

type Item = vscode.QuickPickItem & { run?: () => unknown };

/** The menu behind the status bar item. */
export async function showMenu(settings: Settings, sessions: Sessions): Promise<void> {
	const run = (command: string, ...args: unknown[]) => () => vscode.commands.executeCommand(command, ...args);
	const separator = (label: string): Item => ({ label, kind: vscode.QuickPickItemKind.Separator });
	const items: Item[] = [
		settings.on ? { label: '$(debug-disconnect) Turn off', description: 'launches run as without mirrord', run: run('mirrord.toggle') }
			: { label: '$(target) Turn on', description: 'launches run in the context of a pod', run: run('mirrord.toggle') },
		{ label: '$(list-selection) Choose target…', description: settings.chosen?.target ?? 'asked for at each launch', run: run('mirrord.chooseTarget') },
		{ label: '$(terminal) Run in terminal…', run: run('mirrord.runInTerminal') },
		separator('Configuration'),
		{ label: '$(file) Active configuration…', description: settings.configFile ? vscode.workspace.asRelativePath(settings.configFile) : 'found by itself', run: run('mirrord.selectConfig') },
		{ label: '$(go-to-file) Open configuration', run: run('mirrord.openConfig') },
		{ label: '$(new-file) Create configuration', run: run('mirrord.createConfig') },
		{ label: '$(gear) Settings', run: run('mirrord.openSettings') },
	];
	if (settings.chosen) {
		items.splice(2, 0, { label: '$(close) Ask for the target at each launch', run: () => settings.setChosen(undefined) });
	}
	if (sessions.list.length > 0) items.push(separator('Sessions'));
	for (const r of sessions.list) {
		const of = short(r.info.target);
		if (r.traffic.once === 'caught') items.push({ label: `$(target) Steal one more request of ${of}`, description: r.info.id, run: run('mirrord.arm', r.info.id) });
		items.push(
			{ label: `$(debug-stop) Stop ${of}`, description: r.info.id, run: run('mirrord.stopSession', r.info.id) },
			{ label: `$(output) Show events of ${of}`, description: r.info.id, run: run('mirrord.showEvents', r.info.id) },
			{ label: `$(folder-opened) Open the files of ${of}`, description: r.info.id, run: run('mirrord.openFiles', r.info.id) },
		);
	}
	items.push(separator('Help'), { label: '$(output) Show log', run: run('mirrord.showLog') }, { label: '$(bell) Show all messages again', run: run('mirrord.unmute') }, { label: '$(question) Get started', run: run('mirrord.openWalkthrough') });
	const placeHolder = sessions.trouble || (settings.on ? 'mirrord is on' : 'mirrord is off');
	sessions.settle(); // the user sees it now
	const chosen = await vscode.window.showQuickPick(items, { title: 'mirrord', placeHolder });
	await chosen?.run?.();
}
